// What both passes share: 16-byte vectors, the conversion of stored types, and one elementwise kernel.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "../activations.h"
#include "../kernels.h"

namespace nnk::device {

// How a type is stored, the arithmetic it is computed with, and its conversions, two elements at a time where the
// hardware converts pairs.
struct StoredDouble {
  using T = double;
  using Arithmetic = Double;
  static __device__ void widen(const T (&from)[2], double (&to)[2]) { to[0] = from[0], to[1] = from[1]; }
  static __device__ void narrow(const double (&from)[2], T (&to)[2]) { to[0] = from[0], to[1] = from[1]; }
};

struct StoredFloat {
  using T = float;
  using Arithmetic = Single;
  static __device__ void widen(const T (&from)[2], float (&to)[2]) { to[0] = from[0], to[1] = from[1]; }
  static __device__ void narrow(const float (&from)[2], T (&to)[2]) { to[0] = from[0], to[1] = from[1]; }
};

struct StoredBFloat16 {
  using T = __nv_bfloat16;
  using Arithmetic = Fast;
  static __device__ void widen(const T (&from)[2], float (&to)[2]) {
    to[0] = __bfloat162float(from[0]), to[1] = __bfloat162float(from[1]);
  }
  static __device__ void narrow(const float (&from)[2], T (&to)[2]) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(from[0], from[1]);
    to[0] = pair.x, to[1] = pair.y;
  }
};

struct StoredHalf {
  using T = __half;
  using Arithmetic = Fast;
  static __device__ void widen(const T (&from)[2], float (&to)[2]) {
    const float2 pair = __half22float2(__halves2half2(from[0], from[1]));
    to[0] = pair.x, to[1] = pair.y;
  }
  static __device__ void narrow(const float (&from)[2], T (&to)[2]) {
    const __half2 pair = __floats2half2_rn(from[0], from[1]);
    to[0] = pair.x, to[1] = pair.y;
  }
};

template <int kOperands>
struct Span {
  void* data[kOperands];
  int64_t row_stride[kOperands];
  int64_t rows, cols;
  bool vectors;  // flat, and every operand starts at a multiple of 16 bytes
};

constexpr int kThreads = 256;

template <class T>
struct alignas(16) Vector {
  static constexpr int size = 16 / sizeof(T);
  T at[size];
};

// `Op` has kInputs inputs, kOutputs outputs, kUnroll vectors for each thread in flight before the first is used, and
// operator()(inputs, outputs) on the computing type.
template <class Op, class Stored>
__global__ void __launch_bounds__(kThreads) elementwise(Op op, Span<Op::kInputs + Op::kOutputs> span) {
  using T = typename Stored::T;
  using V = Vector<T>;
  using C = typename Op::T;
  constexpr int kSize = V::size, kOperands = Op::kInputs + Op::kOutputs;
  constexpr int64_t kBlock = int64_t(kThreads) * kSize * Op::kUnroll;
  const int64_t count = span.rows * span.cols;
  const int64_t block = blockIdx.x * kBlock;

  if (span.vectors && block + kBlock <= count) {
    V in[Op::kInputs][Op::kUnroll];
#pragma unroll
    for (int u = 0; u < Op::kUnroll; ++u) {
#pragma unroll
      for (int o = 0; o < Op::kInputs; ++o) {
        in[o][u] = static_cast<const V*>(span.data[o])[block / kSize + u * kThreads + threadIdx.x];
      }
    }
#pragma unroll
    for (int u = 0; u < Op::kUnroll; ++u) {
      V out[Op::kOutputs];
#pragma unroll
      for (int i = 0; i < kSize; i += 2) {
        C wide[kOperands][2];
#pragma unroll
        for (int o = 0; o < Op::kInputs; ++o) {
          const T pair[2] = {in[o][u].at[i], in[o][u].at[i + 1]};
          Stored::widen(pair, wide[o]);
        }
#pragma unroll
        for (int e = 0; e < 2; ++e) op(wide, e);
#pragma unroll
        for (int o = 0; o < Op::kOutputs; ++o) {
          T pair[2];
          Stored::narrow(wide[Op::kInputs + o], pair);
          out[o].at[i] = pair[0], out[o].at[i + 1] = pair[1];
        }
      }
#pragma unroll
      for (int o = 0; o < Op::kOutputs; ++o) {
        static_cast<V*>(span.data[Op::kInputs + o])[block / kSize + u * kThreads + threadIdx.x] = out[o];
      }
    }
    return;
  }

  // The last block, and layouts without whole vectors: one element at a time, neighbours by neighbouring threads.
  const int64_t end = block + kBlock < count ? block + kBlock : count;
  for (int64_t i = block + threadIdx.x; i < end; i += kThreads) {
    const int64_t row = span.rows == 1 ? 0 : i / span.cols, col = i - row * span.cols;
    C wide[kOperands][2] = {};
#pragma unroll
    for (int o = 0; o < Op::kInputs; ++o) {
      const T one = static_cast<const T*>(span.data[o])[row * span.row_stride[o] + col];
      const T pair[2] = {one, one};
      Stored::widen(pair, wide[o]);
    }
    op(wide, 0);
#pragma unroll
    for (int o = 0; o < Op::kOutputs; ++o) {
      T pair[2];
      Stored::narrow(wide[Op::kInputs + o], pair);
      static_cast<T*>(span.data[Op::kInputs + o])[row * span.row_stride[Op::kInputs + o] + col] = pair[0];
    }
  }
}

template <class Op, class Stored>
cudaError_t launch(const Job& job, cudaStream_t stream) {
  constexpr int kOperands = Op::kInputs + Op::kOutputs;
  constexpr int64_t kBlock = int64_t(kThreads) * Vector<typename Stored::T>::size * Op::kUnroll;
  Span<kOperands> span{{}, {}, job.rows, job.cols, true};
  bool flat = true;
  for (int o = 0; o < kOperands; ++o) {
    span.data[o] = job.operands[o].data;
    span.row_stride[o] = job.operands[o].row_stride;
    flat &= job.operands[o].row_stride == job.cols;
    span.vectors &= reinterpret_cast<uintptr_t>(job.operands[o].data) % 16 == 0;
  }
  span.vectors &= flat;
  if (flat) span.cols *= span.rows, span.rows = 1;
  const int64_t blocks = (span.rows * span.cols + kBlock - 1) / kBlock;
  if (blocks == 0) return cudaSuccess;
  elementwise<Op, Stored><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(Op(job.a, job.b), span);
  return cudaGetLastError();
}

using Launch = cudaError_t (*)(const Job&, cudaStream_t);

cudaError_t forward(const Job& job, cudaStream_t stream);
cudaError_t backward(const Job& job, cudaStream_t stream);

}  // namespace nnk::device

// The launchers of one pass, by activation and stored type: `Op` is a template <class Activation> of elementwise's
// form.
#define NNK_LAUNCH(name, Stored) launch<Op<name<Stored::Arithmetic>>, Stored>
#define NNK_TABLE_ROW(name)                                                                         \
  {NNK_LAUNCH(name, StoredDouble), NNK_LAUNCH(name, StoredFloat), NNK_LAUNCH(name, StoredBFloat16), \
   NNK_LAUNCH(name, StoredHalf)},
#define NNK_TABLE constexpr Launch table[][4] = {NNK_ACTIVATIONS(NNK_TABLE_ROW)}
