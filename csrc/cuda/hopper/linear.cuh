// y = f(x W^T + b) for 16-bit matrices on Hopper, with the product's end hidden behind the next product.
//
// A program is three groups of four warps. One thread of the first fetches tiles of x and W, as far ahead as shared
// memory allows. The others take turns: while one multiplies, the other adds the bias, takes the activation and sends
// the result of the tile before (CUTLASS's ping-pong schedule; Thakkar et al. 2023). Two programs, a cluster, work on
// tiles one below the other and share their part of W: each fetches a half of it for both.
#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <atomic>

#include "../launch.cuh"
#include "instructions.cuh"
#include "linear.h"

namespace nnk::device {

constexpr int kTile = 128;  // rows and columns of a group's result
constexpr int kStep = 64;   // numbers of a sum that one stage holds: 128 bytes, the widest row of a tile
constexpr int kStages = 6;
constexpr int kPrograms = 2;  // of a cluster
constexpr int kGroup = 4;     // clusters' tiles below each other, which share the columns of W in the L2 cache
constexpr int kOperandBytes = kTile * kStep * 2, kStageBytes = 2 * kOperandBytes;
constexpr int kSliceBytes = 16 * kStep * 2;  // what a warp sends at a time: 16 rows of 64 columns
constexpr int kGroupWarps = 4, kComputing = 2 * kGroupWarps;
constexpr int kLinearThreads = 32 * (kGroupWarps + kComputing);
constexpr int kFetchingRegisters = 40, kComputingRegisters = 232;  // of each thread
constexpr int kFullAt = kStages * kStageBytes + kComputing * 2 * kSliceBytes, kEmptyAt = kFullAt + kStages * 8;
constexpr int kSharedBytes = kEmptyAt + kStages * 8 + 1024;  // of which some are lost before the first address

// n / divisor for 0 <= n < 2^31 (Granlund & Montgomery 1994).
struct Divisor {
  uint32_t divisor, multiplier, shift;

  explicit Divisor(uint32_t divisor) : divisor(divisor), shift(31) {
    while (uint64_t(1) << (shift - 31) < divisor) ++shift;
    multiplier = static_cast<uint32_t>(((uint64_t(1) << shift) + divisor - 1) / divisor);
  }
  __device__ int into(int n) const { return static_cast<int>(uint64_t(uint32_t(n)) * multiplier >> shift); }
};

// The clusters' tiles in the order in which they are made.
struct Tiles {
  int down, right, depth_steps;
  Divisor in_group;

  explicit Tiles(const LinearJob& job)
      : down(static_cast<int>((job.rows + kPrograms * kTile - 1) / (kPrograms * kTile))),
        right(static_cast<int>((job.cols + kTile - 1) / kTile)),
        depth_steps(static_cast<int>((job.depth + kStep - 1) / kStep)),
        in_group(kGroup * right) {}

  __device__ void place(int tile, int program, int* row, int* col) const {
    const int group = in_group.into(tile), in = tile - group * static_cast<int>(in_group.divisor);
    const int height = down - group * kGroup;
    const bool whole = height >= kGroup;
    const int below = whole ? in % kGroup : in % height, beside = whole ? in / kGroup : in / height;
    *row = ((group * kGroup + below) * kPrograms + program) * kTile;
    *col = beside * kTile;
  }
};

struct Maps {
  CUtensorMap x, weight, y, z;
};

// Fetches every tile's operands, stage after stage, into those that all programs have left.
__device__ inline void fetch_operands(const Maps& maps, const Tiles& tiles, uint32_t shared, int program, int first,
                                      int every) {
  constexpr int kPart = kTile / kPrograms;
  int stage = 0, parity = 1;
  for (int tile = first; tile < tiles.down * tiles.right; tile += every) {
    int row, col;
    tiles.place(tile, program, &row, &col);
    for (int step = 0; step < tiles.depth_steps; ++step) {
      const uint32_t to = shared + stage * kStageBytes, full = shared + kFullAt + stage * 8;
      hopper::wait_for(shared + kEmptyAt + stage * 8, parity);
      hopper::arrive_and_announce(full, kStageBytes);
      hopper::fetch(to, &maps.x, row, step * kStep, full);
      hopper::fetch_for_all(to + kOperandBytes + program * kPart * kStep * 2, &maps.weight, col + program * kPart,
                            step * kStep, full, (1 << kPrograms) - 1);
      if (++stage == kStages) stage = 0, parity ^= 1;
    }
  }
}

// Tells all programs that this warp has left the stage.
__device__ inline void leave(uint32_t shared, int stage, int lane) {
  if (lane < kPrograms) hopper::arrive_at_other(shared + kEmptyAt + stage * 8, lane);
}

// sums = the tile of x W^T whose operands begin at the `step`-th of all that are fetched, in two blocks of 64 rows.
// Groups take turns, since each may wait for the next phase of a stage's barrier only.
template <class T>
__device__ void multiply_tile(float (&sums)[2][64], uint32_t shared, int step, int steps, int turn, int lane) {
  int stage = step % kStages, parity = step / kStages & 1, before = stage;
  hopper::wait_at_named(1 + turn, 32 * kComputing);
  for (int k = 0; k < steps; ++k) {
    hopper::wait_for(shared + kFullAt + stage * 8, parity);
    const uint32_t x = hopper::descriptor(shared + stage * kStageBytes);
    const uint32_t weight = hopper::descriptor(shared + stage * kStageBytes + kOperandBytes);
    hopper::pin(sums[0]), hopper::pin(sums[1]);
    hopper::begin_products();
#pragma unroll
    for (int i = 0; i < kStep / 16; ++i) {
      const uint32_t at = i * hopper::kNext16Columns;
      hopper::multiply<T>(sums[0], x + at, weight + at, k | i);
      hopper::multiply<T>(sums[1], x + at + hopper::kNext64Rows, weight + at, k | i);
    }
    hopper::close_products();
    hopper::pin(sums[0]), hopper::pin(sums[1]);
    if (k) {
      hopper::wait_for_products<1>();
      leave(shared, before, lane);
    }
    before = stage;
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
  hopper::arrive_at_named(2 - turn, 32 * kComputing);
  hopper::wait_for_products<0>();
  hopper::pin(sums[0]), hopper::pin(sums[1]);
  leave(shared, before, lane);
}

// Adds to 64 columns of sums what `biases` has for them, two in each.
template <class Stored>
__device__ void add(float (&sums)[64], const uint32_t (&biases)[kTile / 8], int half) {
#pragma unroll
  for (int j = half * 8; j < half * 8 + 8; ++j) {
    typename Stored::T two[2];
    float wide[2];
    memcpy(two, &biases[j], 4);
    Stored::widen(two, wide);
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[4 * j + i] += wide[i % 2];
  }
}

// f(sums) of 16 rows of 64 columns, or the sums as they are, in the type of the result.
template <class Stored, class F>
__device__ void pack(uint32_t (&packed)[16], const float (&sums)[64], int half, const F& f, bool activates) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    float results[2] = {sums[half * 32 + 2 * i], sums[half * 32 + 2 * i + 1]};
    if (activates) results[0] = f.value(results[0]), results[1] = f.value(results[1]);
    typename Stored::T two[2];
    Stored::narrow(results, two);
    memcpy(&packed[i], two, 4);
  }
}

// What is packed to shared memory, as the copy engine reads it.
__device__ inline void lay_down(uint32_t slice, const uint32_t (&packed)[16], int lane) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t four[4] = {packed[4 * i], packed[4 * i + 1], packed[4 * i + 2], packed[4 * i + 3]};
    const int row = lane % 16, sixteen_bytes = (2 * i + lane / 16) ^ (lane % 8);
    hopper::store_matrices(slice + row * kStep * 2 + sixteen_bytes * 16, four);
  }
}

// y = f(x W^T + b), and z = x W^T + b if it `kStores` that.
template <class F, class Stored, bool kStores>
__global__ void __cluster_dims__(kPrograms) __launch_bounds__(kLinearThreads, 1)
    linear(const __grid_constant__ Maps maps, const Tiles tiles, const F f, const typename Stored::T* bias, int cols) {
  extern __shared__ uint8_t raw[];
  const uint32_t shared = (hopper::address_of(raw) + 1023) & ~1023u;
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  const int program = hopper::rank_in_cluster();
  const int cluster = blockIdx.x / kPrograms, clusters = gridDim.x / kPrograms;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      hopper::make_barrier(shared + kFullAt + i * 8, 1);
      hopper::make_barrier(shared + kEmptyAt + i * 8, kGroupWarps * kPrograms);
    }
    hopper::publish_barriers();
  }
  hopper::wait_for_cluster();

  if (warp < kGroupWarps) {
    hopper::give_registers<kFetchingRegisters>();
    if (threadIdx.x == 0) fetch_operands(maps, tiles, shared, program, cluster, clusters);
  } else {
    hopper::take_registers<kComputingRegisters>();
    const int turn = warp / kGroupWarps - 1, quarter = warp % kGroupWarps;
    const uint32_t slices = shared + kStages * kStageBytes + (warp - kGroupWarps) * 2 * kSliceBytes;
    if (turn == 1) hopper::arrive_at_named(1, 32 * kComputing);  // the first group begins
    int step = turn * tiles.depth_steps;
    for (int tile = cluster + turn * clusters; tile < tiles.down * tiles.right; tile += 2 * clusters) {
      int row, col;
      tiles.place(tile, program, &row, &col);
      uint32_t biases[kTile / 8];
      if (bias) {
#pragma unroll
        for (int j = 0; j < kTile / 8; ++j) {
          const int at = min(col + 8 * j + lane % 4 * 2, cols - 2);
          biases[j] = *reinterpret_cast<const uint32_t*>(bias + at);
        }
      }
      float sums[2][64];
      multiply_tile<typename Stored::T>(sums, shared, step, tiles.depth_steps, turn, lane);
      step += 2 * tiles.depth_steps;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (bias) add<Stored>(sums[0], biases, half), add<Stored>(sums[1], biases, half);
#pragma unroll
        for (int pass = kStores ? 0 : 1; pass < 2; ++pass) {
          uint32_t packed[2][16];
          pack<Stored>(packed[0], sums[0], half, f, pass), pack<Stored>(packed[1], sums[1], half, f, pass);
          if (lane == 0) hopper::wait_until_read();
          __syncwarp();
          lay_down(slices, packed[0], lane), lay_down(slices + kSliceBytes, packed[1], lane);
          hopper::show_to_engine();
          __syncwarp();
          if (lane == 0) {
            const CUtensorMap* to = pass ? &maps.y : &maps.z;
            hopper::send(to, row + quarter * 16, col + half * kStep, slices);
            hopper::send(to, row + quarter * 16 + kTile / 2, col + half * kStep, slices + kSliceBytes);
            hopper::close_sent();
          }
        }
      }
    }
    if (lane == 0) hopper::wait_until_sent();
  }
  __syncwarp();
  hopper::wait_for_cluster();  // the other program may still write here
}

// A matrix for the copy engine, in tiles of so many rows.
inline cudaError_t describe(CUtensorMap* map, Scalar scalar, const void* data, int64_t rows, int64_t cols,
                            int tile_rows) {
  using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                              const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  // Of the running driver: this is built where there is none.
  static const auto encode =
      reinterpret_cast<Encode>(dlsym(dlopen("libcuda.so.1", RTLD_LAZY), "cuTensorMapEncodeTiled"));
  if (!encode) return cudaErrorSymbolNotFound;
  const auto type = scalar == Scalar::f16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const cuuint64_t sizes[] = {cuuint64_t(cols), cuuint64_t(rows)}, strides[] = {cuuint64_t(cols) * 2};
  const cuuint32_t tile[] = {kStep, cuuint32_t(tile_rows)}, steps[] = {1, 1};
  return static_cast<cudaError_t>(encode(map, type, 2, const_cast<void*>(data), sizes, strides, tile, steps,
                                         CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                         CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
}

// Lets a kernel have more shared memory than kernels have unasked, once on each device; `done` has a bit for each.
inline cudaError_t widen_shared(const void* kernel, int device, std::atomic<uint64_t>& done) {
  const uint64_t bit = device < 64 ? uint64_t(1) << device : 0;
  if (done & bit) return cudaSuccess;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (!error) done |= bit;
  return error;
}

template <class F, class Stored, bool kStores>
cudaError_t launch_linear(const LinearJob& job, cudaStream_t stream) {
  using T = typename Stored::T;
  const auto kernel = linear<F, Stored, kStores>;
  Maps maps;
  int device = 0, multiprocessors = 0;
  static std::atomic<uint64_t> widened{0};
  cudaError_t error = describe(&maps.x, job.scalar, job.x, job.rows, job.depth, kTile);
  if (!error) error = describe(&maps.weight, job.scalar, job.weight, job.cols, job.depth, kTile / kPrograms);
  if (!error) error = describe(&maps.y, job.scalar, job.y, job.rows, job.cols, 16);
  if (!error) error = describe(&maps.z, job.scalar, kStores ? job.z : job.y, job.rows, job.cols, 16);
  if (!error) error = cudaGetDevice(&device);
  if (!error) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (!error) error = widen_shared(reinterpret_cast<const void*>(kernel), device, widened);
  if (error) return error;
  const Tiles tiles(job);
  const int clusters = std::min(tiles.down * tiles.right, multiprocessors / kPrograms);
  kernel<<<clusters * kPrograms, kLinearThreads, kSharedBytes, stream>>>(
      maps, tiles, F(job.a, job.b), static_cast<const T*>(job.bias), static_cast<int>(job.cols));
  return cudaGetLastError();
}

template <class F, class Stored>
cudaError_t launch_linear(const LinearJob& job, cudaStream_t stream) {
  return job.z ? launch_linear<F, Stored, true>(job, stream) : launch_linear<F, Stored, false>(job, stream);
}

cudaError_t linear_bfloat16(const LinearJob& job, cudaStream_t stream);
cudaError_t linear_float16(const LinearJob& job, cudaStream_t stream);

}  // namespace nnk::device

// The launchers of one stored type, by activation.
#define NNK_LINEAR_ROW(name) launch_linear<name<Fast>, NNK_LINEAR_STORED>,
#define NNK_LINEAR_TABLE \
  constexpr cudaError_t (*table[])(const LinearJob&, cudaStream_t) = {NNK_ACTIVATIONS(NNK_LINEAR_ROW)}
