// What stands at the end of products on Hopper: an activation, and in backward its derivative.
#pragma once

#include "product.cuh"

namespace nnk::device {

template <class Stored>
__device__ void unpack(uint32_t packed, float (&two)[2]) {
  typename Stored::T pair[2];
  memcpy(pair, &packed, 4);
  Stored::widen(pair, two);
}

template <class Stored>
__device__ uint32_t packed(const float (&two)[2]) {
  typename Stored::T pair[2];
  Stored::narrow(two, pair);
  uint32_t both;
  memcpy(&both, pair, 4);
  return both;
}

// y = f(x W^T + b), and z = x W^T + b if it is wanted.
template <class F, class StoredType>
struct Activated {
  using Stored = StoredType;
  static constexpr bool kRowMajor = false, kBeside = false;

  F f;
  const typename Stored::T* bias;
  bool stores;
  int cols;

  // The biases of the columns whose sums a thread has, two in each.
  struct Ahead {
    uint32_t biases[kTile / 8];
  };

  __device__ Ahead ahead(int col, int lane) const {
    Ahead ahead{};
    if (!bias) return ahead;
#pragma unroll
    for (int j = 0; j < kTile / 8; ++j) {
      const int at = min(col + 8 * j + lane % 4 * 2, cols - 2);
      ahead.biases[j] = *reinterpret_cast<const uint32_t*>(bias + at);
    }
    return ahead;
  }

  __device__ void operator()(float (&sums)[2][64], const Ahead& ahead, const Part& part) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (bias) add(sums[0], ahead, half), add(sums[1], ahead, half);
      if (stores) send<false>(part.maps.z, sums, half, part);
      send<true>(part.maps.y, sums, half, part);
    }
  }

 private:
  __device__ void add(float (&sums)[64], const Ahead& ahead, int half) const {
#pragma unroll
    for (int j = half * 8; j < half * 8 + 8; ++j) {
      float two[2];
      unpack<Stored>(ahead.biases[j], two);
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[4 * j + i] += two[i % 2];
    }
  }

  template <bool kActivates>
  __device__ void send(const CUtensorMap& to, const float (&sums)[2][64], int half, const Part& part) const {
    uint32_t ends[2][16];
    pack<kActivates>(ends[0], sums[0], half), pack<kActivates>(ends[1], sums[1], half);
    if (part.lane == 0) hopper::wait_until_read();
    __syncwarp();
    lay_down(part.slices, ends[0], part.lane), lay_down(part.slices + kSliceBytes, ends[1], part.lane);
    hopper::show_to_engine();
    __syncwarp();
    if (part.lane == 0) {
      const int row = part.row + part.quarter * 16, col = part.col + half * kStep;
      hopper::send(&to, row, col, part.slices);
      hopper::send(&to, row + kTile / 2, col, part.slices + kSliceBytes);
      hopper::close_sent();
    }
  }

  template <bool kActivates>
  __device__ void pack(uint32_t (&ends)[16], const float (&sums)[64], int half) const {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      float two[2] = {sums[half * 32 + 2 * i], sums[half * 32 + 2 * i + 1]};
      if (kActivates) two[0] = f.value(two[0]), two[1] = f.value(two[1]);
      ends[i] = packed<Stored>(two);
    }
  }
};

// d = (x W) f'(z), h = f(z) if it is wanted, and the sums of d's columns over 32 rows each if they are.
template <class F, class StoredType>
struct Differentiated {
  using Stored = StoredType;
  static constexpr bool kRowMajor = true, kBeside = true;

  F f;
  bool again;
  float* totals;  // for each warp's 32 rows of each tile, one below the other: (2 programs, 4 quarters, cols) of each
  int cols;

  struct Ahead {};
  __device__ Ahead ahead(int, int) const { return {}; }

  __device__ void operator()(float (&sums)[2][64], Ahead, const Part& part) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total[16] = {};
#pragma unroll
      for (int block = 0; block < 2; ++block) {
        uint32_t z[16], d[16], h[16];
        const uint32_t rows = (block * 64 + part.quarter * 16) * kStep * 2;
        pick_up(z, part.beside + half * kOperandBytes + rows, part.lane);
#pragma unroll
        for (int i = 0; i < 16; ++i) {
          float at[2], slopes[2], values[2];
          unpack<Stored>(z[i], at);
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            slopes[e] = times_slope<F>(sums[block][half * 32 + 2 * i + e], f.d1(at[e]));
            values[e] = f.value(at[e]);
            total[i / 2 * 2 + e] += slopes[e];
          }
          d[i] = packed<Stored>(slopes), h[i] = packed<Stored>(values);
        }
        if (part.lane == 0) hopper::wait_until_read();
        __syncwarp();
        lay_down(part.slices, d, part.lane);
        if (again) lay_down(part.slices + kSliceBytes, h, part.lane);
        hopper::show_to_engine();
        __syncwarp();
        if (part.lane == 0) {
          const int row = part.row + block * 64 + part.quarter * 16, col = part.col + half * kStep;
          hopper::send(&part.maps.y, row, col, part.slices);
          if (again) hopper::send(&part.maps.z, row, col, part.slices + kSliceBytes);
          hopper::close_sent();
        }
      }
      if (totals) keep(total, half, part);
    }
  }

 private:
  // Of 2 `kLeft` columns each thread gives half to the one `kApart` away, and adds what it is given to the others.
  template <int kLeft, int kApart>
  static __device__ void share(float (&total)[16], int lane) {
    const bool upper = lane & kApart;
#pragma unroll
    for (int i = 0; i < kLeft; ++i) {
      const float mine = upper ? total[i + kLeft] : total[i], other = upper ? total[i] : total[i + kLeft];
      total[i] = mine + __shfl_xor_sync(0xffffffff, other, kApart);
    }
  }

  // The sums of what eight threads have for the same columns.
  __device__ void keep(float (&total)[16], int half, const Part& part) const {
    share<8, 16>(total, part.lane), share<4, 8>(total, part.lane), share<2, 4>(total, part.lane);
    const int eight = (part.lane >> 4 & 1) * 4 + (part.lane >> 3 & 1) * 2 + (part.lane >> 2 & 1);
    const int col = part.col + half * kStep + eight * 8 + part.lane % 4 * 2;
    if (col >= cols) return;
    float* to = totals + (int64_t(part.row / kTile) * kGroupWarps + part.quarter) * cols + col;
    *reinterpret_cast<float2*>(to) = make_float2(total[0], total[1]);
  }
};

// Whether the derivative at the end of a product, of more than 32 instructions, outlasts a pass of its own behind it.
template <class F>
constexpr bool kLongSlope = false;
#define NNK_LONG_SLOPE(name) \
  template <>                \
  inline constexpr bool kLongSlope<name<Fast>> = true;
NNK_LONG_SLOPE(celu)
NNK_LONG_SLOPE(elu)
NNK_LONG_SLOPE(gelu)
NNK_LONG_SLOPE(gelu_sigmoid)
NNK_LONG_SLOPE(selu)
NNK_LONG_SLOPE(softcap)
NNK_LONG_SLOPE(softplus)
NNK_LONG_SLOPE(softsign)
NNK_LONG_SLOPE(sqrtsoftplus)
NNK_LONG_SLOPE(swish)
NNK_LONG_SLOPE(tanhshrink)
#undef NNK_LONG_SLOPE

template <class F, class Stored>
cudaError_t launch_linear(const LinearJob& job, cudaStream_t stream) {
  const auto bias = static_cast<const typename Stored::T*>(job.bias);
  const Activated<F, Stored> end{F(job.a, job.b), bias, job.z != nullptr, static_cast<int>(job.cols)};
  return launch_product(job, nullptr, job.y, job.z, end, stream);
}

template <class F, class Stored>
cudaError_t launch_slope(const SlopeJob& job, cudaStream_t stream) {
  if constexpr (kLongSlope<F>) {
    return cudaErrorNotSupported;
  } else {
    const Differentiated<F, Stored> end{F(job.a, job.b), job.h != nullptr, job.totals, static_cast<int>(job.cols)};
    return launch_product(job, job.z, job.d, job.h, end, stream);
  }
}

// Launches the job's activation. Each stored type is compiled in a file of its own.
template <class Stored>
cudaError_t run(const LinearJob& job, cudaStream_t stream) {
#define NNK_LINEAR_ROW(name) launch_linear<name<Fast>, Stored>,
  constexpr cudaError_t (*table[])(const LinearJob&, cudaStream_t) = {NNK_ACTIVATIONS(NNK_LINEAR_ROW)};
#undef NNK_LINEAR_ROW
  return table[job.activation](job, stream);
}

template <class Stored>
cudaError_t run(const SlopeJob& job, cudaStream_t stream) {
#define NNK_SLOPE_ROW(name) launch_slope<name<Fast>, Stored>,
  constexpr cudaError_t (*table[])(const SlopeJob&, cudaStream_t) = {NNK_ACTIVATIONS(NNK_SLOPE_ROW)};
#undef NNK_SLOPE_ROW
  return table[job.activation](job, stream);
}

extern template cudaError_t run<StoredBFloat16>(const LinearJob&, cudaStream_t);
extern template cudaError_t run<StoredBFloat16>(const SlopeJob&, cudaStream_t);
extern template cudaError_t run<StoredHalf>(const LinearJob&, cudaStream_t);
extern template cudaError_t run<StoredHalf>(const SlopeJob&, cudaStream_t);

}  // namespace nnk::device
