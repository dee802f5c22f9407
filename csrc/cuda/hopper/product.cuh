// x W for 16-bit matrices on Hopper, with the product's end, whatever it is, hidden behind the next product.
//
// A program is three groups of four warps. One thread of the first fetches tiles of x and W, as far ahead as shared
// memory allows. The others take turns: while one multiplies, the other ends the tile before (CUTLASS's ping-pong
// schedule; Thakkar et al. 2023). Two programs, a cluster, work on tiles one below the other and share their part of W:
// each fetches a half of it for both.
//
// An end is a struct:
//
//   using Stored;                            // of the matrices, as in launch.cuh
//   static constexpr bool kRowMajor;         // W is (depth, cols); else it is (cols, depth)
//   static constexpr bool kBeside;           // a tile of one more matrix, `beside`, is fetched for every tile
//   struct Ahead;                            // what `ahead(col, lane)` loads before the product is made
//   void operator()(sums, ahead, tile);      // makes of the sums what it sends
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
constexpr int kProductThreads = 32 * (kGroupWarps + kComputing);
constexpr int kFetchingRegisters = 40, kComputingRegisters = 232;  // of each thread
constexpr int kSlicesAt = kStages * kStageBytes, kFullAt = kSlicesAt + kComputing * 2 * kSliceBytes;
constexpr int kEmptyAt = kFullAt + kStages * 8;
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

  Tiles(int64_t rows, int64_t cols, int64_t depth)
      : down(static_cast<int>((rows + kPrograms * kTile - 1) / (kPrograms * kTile))),
        right(static_cast<int>((cols + kTile - 1) / kTile)),
        depth_steps(static_cast<int>((depth + kStep - 1) / kStep)),
        in_group(kGroup * right) {}

  __device__ void place(int tile, int program, int* row, int* col) const {
    const int group = in_group.into(tile), in = tile - group * static_cast<int>(in_group.divisor);
    const int height = down - group * kGroup;
    const bool whole = height >= kGroup;
    const int below = whole ? in % kGroup : in % height, to_the_right = whole ? in / kGroup : in / height;
    *row = ((group * kGroup + below) * kPrograms + program) * kTile;
    *col = to_the_right * kTile;
  }
};

struct Maps {
  CUtensorMap x, weight, beside, y, z;
};

// What an end is told of the warp's part of the tile: `row` and `col` are the tile's first, and of its rows the warp
// has 16 `quarter` ... 16 `quarter` + 15, and as many 64 rows below.
struct Part {
  const Maps& maps;
  uint32_t slices;  // two, in shared memory
  uint32_t beside;  // the tile of the matrix beside, as two of 64 columns each
  int row, col, quarter, lane;
};

// Where 16 bytes of 16 rows of 64 columns lie: those that this lane's matrix has in the `i`-th quarter of them.
__device__ inline uint32_t place_in_slice(uint32_t slice, int i, int lane) {
  return slice + lane % 16 * kStep * 2 + ((2 * i + lane / 16) ^ (lane % 8)) * 16;
}

// Packed numbers of a slice, as `multiply` gives sums, to shared memory, as the copy engine reads them.
__device__ inline void lay_down(uint32_t slice, const uint32_t (&packed)[16], int lane) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t four[4] = {packed[4 * i], packed[4 * i + 1], packed[4 * i + 2], packed[4 * i + 3]};
    hopper::store_matrices(place_in_slice(slice, i, lane), four);
  }
}

// The other way.
__device__ inline void pick_up(uint32_t (&packed)[16], uint32_t slice, int lane) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    uint32_t four[4];
    hopper::load_matrices(four, place_in_slice(slice, i, lane));
#pragma unroll
    for (int j = 0; j < 4; ++j) packed[4 * i + j] = four[j];
  }
}

// Fetches every tile's operands, stage after stage, into those that all programs have left.
template <class End>
__device__ void fetch_operands(const Maps& maps, const Tiles& tiles, uint32_t shared, int program, int first,
                               int every) {
  constexpr int kPart = kTile / kPrograms;
  int stage = 0, parity = 1;
  const auto next = [&] {
    const uint32_t full = shared + kFullAt + stage * 8;
    hopper::wait_for(shared + kEmptyAt + stage * 8, parity);
    hopper::arrive_and_announce(full, kStageBytes);
    return full;
  };
  const auto close = [&] {
    if (++stage == kStages) stage = 0, parity ^= 1;
  };
  for (int tile = first; tile < tiles.down * tiles.right; tile += every) {
    int row, col;
    tiles.place(tile, program, &row, &col);
    for (int step = 0; step < tiles.depth_steps; ++step) {
      const uint32_t full = next(), to = shared + stage * kStageBytes;
      const uint32_t part = to + kOperandBytes + program * kPart * kStep * 2;
      const int in_depth = step * kStep, in_cols = col + program * kPart;
      hopper::fetch(to, &maps.x, row, in_depth, full);
      hopper::fetch_for_all(part, &maps.weight, End::kRowMajor ? in_depth : in_cols,
                            End::kRowMajor ? in_cols : in_depth, full, (1 << kPrograms) - 1);
      close();
    }
    if (End::kBeside) {
      const uint32_t full = next(), to = shared + stage * kStageBytes;
      hopper::fetch(to, &maps.beside, row, col, full);
      hopper::fetch(to + kOperandBytes, &maps.beside, row, col + kStep, full);
      close();
    }
  }
}

// Tells all programs that this warp has left the stage.
__device__ inline void leave(uint32_t shared, int stage, int lane) {
  if (lane < kPrograms) hopper::arrive_at_other(shared + kEmptyAt + stage * 8, lane);
}

// sums = the tile whose operands begin at the `step`-th stage of all that are fetched, in two blocks of 64 rows. Groups
// take turns, since each may wait for the next phase of a stage's barrier only: also for that of the tile beside,
// before the other group goes on.
template <class End>
__device__ void multiply_tile(float (&sums)[2][64], uint32_t shared, int step, int steps, int turn, int lane) {
  using T = typename End::Stored::T;
  int stage = step % kStages, parity = step / kStages & 1, before = stage;
  const auto next = [&] {
    if (++stage == kStages) stage = 0, parity ^= 1;
  };
  hopper::wait_at_named(1 + turn, 32 * kComputing);
  for (int k = 0; k < steps; ++k) {
    hopper::wait_for(shared + kFullAt + stage * 8, parity);
    const uint32_t operands = shared + stage * kStageBytes;
    const uint32_t x = hopper::descriptor<false>(operands);
    const uint32_t weight = hopper::descriptor<End::kRowMajor>(operands + kOperandBytes);
    hopper::pin(sums[0]), hopper::pin(sums[1]);
    hopper::begin_products();
#pragma unroll
    for (int i = 0; i < kStep / 16; ++i) {
      const uint32_t left = x + i * hopper::kNext16<false>, right = weight + i * hopper::kNext16<End::kRowMajor>;
      hopper::multiply<T, End::kRowMajor>(sums[0], left, right, k | i);
      hopper::multiply<T, End::kRowMajor>(sums[1], left + hopper::kNext64Rows, right, k | i);
    }
    hopper::close_products();
    hopper::pin(sums[0]), hopper::pin(sums[1]);
    if (k) {
      hopper::wait_for_products<1>();
      leave(shared, before, lane);
    }
    before = stage;
    next();
  }
  if (End::kBeside) hopper::wait_for(shared + kFullAt + stage * 8, parity);
  hopper::arrive_at_named(2 - turn, 32 * kComputing);
  hopper::wait_for_products<0>();
  hopper::pin(sums[0]), hopper::pin(sums[1]);
  leave(shared, before, lane);
}

template <class End>
__global__ void __cluster_dims__(kPrograms) __launch_bounds__(kProductThreads, 1)
    product(const __grid_constant__ Maps maps, const Tiles tiles, const End end) {
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
    if (threadIdx.x == 0) fetch_operands<End>(maps, tiles, shared, program, cluster, clusters);
  } else {
    hopper::take_registers<kComputingRegisters>();
    const int turn = warp / kGroupWarps - 1, stages = tiles.depth_steps + End::kBeside;
    const uint32_t slices = shared + kSlicesAt + (warp - kGroupWarps) * 2 * kSliceBytes;
    if (turn == 1) hopper::arrive_at_named(1, 32 * kComputing);  // the first group begins
    int step = turn * stages;
    for (int tile = cluster + turn * clusters; tile < tiles.down * tiles.right; tile += 2 * clusters) {
      int row, col;
      tiles.place(tile, program, &row, &col);
      const typename End::Ahead ahead = end.ahead(col, lane);
      float sums[2][64];
      multiply_tile<End>(sums, shared, step, tiles.depth_steps, turn, lane);
      const int beside = (step + tiles.depth_steps) % kStages;
      end(sums, ahead, Part{maps, slices, shared + beside * kStageBytes, row, col, warp % kGroupWarps, lane});
      if (End::kBeside) leave(shared, beside, lane);
      step += 2 * stages;
    }
    if (lane == 0) hopper::wait_until_sent();
  }
  __syncwarp();
  hopper::wait_for_cluster();  // the other program may still write here
}

// A matrix for the copy engine, in tiles of 64 columns and so many rows.
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

// Queues the product on the current device. Of matrices that are not given the end makes no use.
template <class End>
cudaError_t launch_product(const ProductJob& job, const void* beside, void* y, void* z, const End& end,
                           cudaStream_t stream) {
  const auto kernel = product<End>;
  Maps maps;
  const int64_t weight_rows = End::kRowMajor ? job.depth : job.cols,
                weight_cols = End::kRowMajor ? job.cols : job.depth;
  cudaError_t error = describe(&maps.x, job.scalar, job.x, job.rows, job.depth, kTile);
  if (!error) error = describe(&maps.weight, job.scalar, job.weight, weight_rows, weight_cols, kTile / kPrograms);
  if (!error) error = describe(&maps.beside, job.scalar, beside ? beside : y, job.rows, job.cols, kTile);
  if (!error) error = describe(&maps.y, job.scalar, y, job.rows, job.cols, 16);
  if (!error) error = describe(&maps.z, job.scalar, z ? z : y, job.rows, job.cols, 16);
  int device = 0, multiprocessors = 0;
  if (!error) error = cudaGetDevice(&device);
  if (!error) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  // More shared memory than kernels have unasked; asked for once on each of the first 64 devices.
  static std::atomic<uint64_t> asked{0};
  const uint64_t bit = device < 64 ? uint64_t(1) << device : 0;
  if (!error && !(asked & bit)) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
    if (!error) asked |= bit;
  }
  if (error) return error;
  const Tiles tiles(job.rows, job.cols, job.depth);
  const int clusters = std::min(tiles.down * tiles.right, multiprocessors / kPrograms);
  kernel<<<clusters * kPrograms, kProductThreads, kSharedBytes, stream>>>(maps, tiles, end);
  return cudaGetLastError();
}

}  // namespace nnk::device
