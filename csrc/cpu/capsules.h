// Capsules: vectors whose length n becomes n^2 / (1 + n^2), and their routing by agreement.
#pragma once

#include "../kernels.h"
#include "isa.h"

namespace nnk {

// Vectors of `size` numbers, of which `inner` lie side by side, number by number.
struct SquashJob {
  Scalar scalar;
  int64_t size, inner;
  const void *x, *grad;  // backward's
  void* out;
};

// A tensor of up to four dimensions, by the distances of its elements.
struct CapsuleOperand {
  void* data;
  int64_t batch, below, above, number;
};

struct RouteJob {
  Scalar scalar;
  int64_t below, above, size, rounds;
  CapsuleOperand votes;       // batch x below x above x size: forward's
  CapsuleOperand capsules;    // batch x above x size: forward writes them, backward reads their gradient
  CapsuleOperand grad_votes;  // backward writes them
  // Of the last round, for backward, contiguous and of the type that is computed in; null if that is not to come.
  void* shares;  // batch x below x above
  void* sums;    // batch x above x size, what was squashed
};

}  // namespace nnk

// The vectors [begin, end), or the batch's samples.
NNK_KERNEL(squash, (const SquashJob& job, int64_t begin, int64_t end), (job, begin, end))
NNK_KERNEL(squash_backward, (const SquashJob& job, int64_t begin, int64_t end), (job, begin, end))
NNK_KERNEL(route, (const RouteJob& job, int64_t begin, int64_t end), (job, begin, end))
NNK_KERNEL(route_backward, (const RouteJob& job, int64_t begin, int64_t end), (job, begin, end))
