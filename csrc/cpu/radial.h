// Gaussian radial basis functions y = exp(-gamma |x - c|^2), from the differences themselves: no product of matrices,
// whose |x|^2 - 2 x c + |c|^2 loses the digits of a short distance between long vectors.
#pragma once

#include "../kernels.h"
#include "isa.h"

namespace nnk {

struct RadialJob {
  Scalar scalar;
  int64_t rows, centers, features;
  const void *x, *positions;  // rows x features, centers x features
  const void* gamma;          // one for each center if gamma_step is 1, the same for all if 0; null: `constant`
  int64_t gamma_step;
  double constant;
  void* y;                                     // rows x centers: forward writes it
  const void* grad;                            // of y: backward reads it
  void *grad_x, *grad_positions, *grad_gamma;  // backward writes them; null: not wanted
  // Parts of the rows, as many whatever the number of threads, and what each adds to the gradients of the centers and
  // of gamma, in the type that is computed with.
  int64_t parts;
  void *part_positions, *part_gamma;
};

}  // namespace nnk

// Rows [begin, end), for backward parts.
NNK_KERNEL(gaussians, (const RadialJob& job, int64_t begin, int64_t end), (job, begin, end))
NNK_KERNEL(gaussians_backward, (const RadialJob& job, int64_t begin, int64_t end), (job, begin, end))
// The sums of all parts.
NNK_KERNEL(gaussians_total, (const RadialJob& job), (job))
