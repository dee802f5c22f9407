// Sparsemax: rows projected onto the probability simplex, and the gradients of the rows from the projections alone.
#pragma once

#include "../kernels.h"
#include "isa.h"

namespace nnk {

// Contiguous rows of `size` numbers, of which `inner` lie side by side, number by number.
struct SparsemaxJob {
  Scalar scalar;
  int64_t size, inner;
  const void *x, *grad;  // forward's logits; backward's output, in their place, and its gradient
  void* out;
};

}  // namespace nnk

// The rows [begin, end).
NNK_KERNEL(sparsemax, (const SparsemaxJob& job, int64_t begin, int64_t end), (job, begin, end))
NNK_KERNEL(sparsemax_backward, (const SparsemaxJob& job, int64_t begin, int64_t end), (job, begin, end))
