// Layer and rms norm with residual and activation over rows of adjacent elements, and their gradients.
#pragma once

#include "../kernels.h"
#include "isa.h"
#include "numbers.h"

namespace nnk {

// Where the activation is the residual's, and multiplies: what the weight gives, or x.
enum class GateAt : int { nowhere = 0, after = 1, before = 2 };

struct RowNormJob {
  bool backward, centred;
  bool linear;  // no activation
  GateAt gates;
  int activation;
  Scalar scalar;
  double a, b, eps, offset;  // offset: added to the weight
  int64_t rows, cols;
  const void *x, *residual, *grad;  // residual may be null
  // Added to `first` before the norm, where `x` is their sum, which forward writes; in backward the sum's own gradient.
  // Or null.
  Numbers first, addend;
  int64_t x_stride, residual_stride, grad_stride, first_stride, addend_stride;
  const void *weight, *bias;    // of the computing type, or null
  void* statistics;             // a row of means if centred, one of 1 / deviation: float for 16-bit data, else double
  void* out;                    // y, or the gradient of x
  Numbers narrowed;             // the gradient of x once more, of an operand's type; or null
  void* for_residual;           // or null
  void *for_weight, *for_bias;  // of the computing type: a row of sums for each chunk; or null
};

// Rows whose parameters' gradients are added up together, whatever the number of threads.
inline int64_t norm_chunk(int64_t rows) {
  constexpr int64_t kLeast = 32, kMostChunks = 256;
  const int64_t even = (rows + kMostChunks - 1) / kMostChunks;
  return even < kLeast ? kLeast : even;
}

}  // namespace nnk

// Rows [begin, end); backward's `begin` is a multiple of norm_chunk(rows).
NNK_KERNEL(row_norm, (const RowNormJob& job, int64_t begin, int64_t end), (job, begin, end))
