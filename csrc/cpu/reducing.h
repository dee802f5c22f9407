// softmax and log_softmax along the middle dimension of (outer, n, inner), and their gradients: from the output, or,
// for a logarithm in 16 bits, whose rounding its exponential would show, from the input and two numbers of each row.
#pragma once

#include "../kernels.h"
#include "isa.h"

namespace nnk {

enum class MaskKind : int { none, keep, add };

constexpr int kMaskDigits = 3;

// A mask that broadcasts: its outer index has three digits, the last running fastest.
struct Mask {
  MaskKind kind;
  const void* data;  // bytes of 0 or 1 to keep; to add, numbers of the type in which the job computes
  int64_t sizes[kMaskDigits], strides[kMaskDigits], dim_stride, inner_stride;
};

// Of each row of a logarithm, a row being one index of (outer, inner): the maximum, and the logarithm of the sum of the
// exponentials below it. An exponent less both is the result before it is rounded.
struct Statistics {
  float *tops = nullptr, *norms = nullptr;
};

struct SoftmaxJob {
  Scalar scalar;
  bool log;
  double scale;
  int64_t n, inner;
  int64_t queries;  // of a causal form: row q = outer % queries keeps columns 0 to q; 0 for no such form
  const void* x;
  int64_t x_stride;  // between outer indices, in elements
  void* y;           // contiguous
  Mask mask;
  Statistics statistics;  // written unless null
};

struct SoftmaxBackwardJob {
  Scalar scalar;
  bool log, masked;  // masked: an output of -inf is a constant
  double scale;
  int64_t n, inner, queries;
  const void* grad;
  int64_t grad_stride;
  const void* y;  // contiguous, as grad_x
  void* grad_x;
};

struct LogSoftmaxBackwardJob {
  Scalar scalar;   // 16 bits, of x and grad_x
  bool wide_grad;  // float in place of that
  double scale;
  int64_t n, inner, queries;
  const void* grad;
  int64_t grad_stride;
  const void* x;
  int64_t x_stride;
  void* grad_x;  // contiguous
  Mask mask;
  Statistics statistics;
};

// A unit of work is one row, or, where inner > 1, one strip of so many adjacent columns.
constexpr int64_t kStrip = 128;
inline int64_t strips(int64_t inner) { return (inner + kStrip - 1) / kStrip; }

}  // namespace nnk

NNK_KERNEL(softmax, (const SoftmaxJob& job, int64_t begin, int64_t end), (job, begin, end))
NNK_KERNEL(softmax_backward, (const SoftmaxBackwardJob& job, int64_t begin, int64_t end), (job, begin, end))
NNK_KERNEL(log_softmax_backward, (const LogSoftmaxBackwardJob& job, int64_t begin, int64_t end), (job, begin, end))
