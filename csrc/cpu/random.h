// The activations that draw random numbers, dropout and Bernoulli units. Nothing drawn is stored: the seed is enough to
// draw it again.
#pragma once

#include "../kernels.h"
#include "isa.h"

namespace nnk {

enum class RandomPass : int {
  rrelu = 0,           // x -> y
  rrelu_backward = 1,  // grad, x -> grad_x
  dropout = 2,         // x -> y; its backward pass is the same with grad
  bernoulli = 3,       // x -> y
};

struct RandomJob {
  RandomPass pass;
  Scalar scalar;
  uint64_t seed;
  // rrelu: slope = scale * number + offset, the number being the random bits as cpu/random.cpp reads them.
  // dropout: an element is kept, times `scale`, if its random word is at least `threshold`.
  // bernoulli needs none of them.
  double scale, offset;
  uint32_t threshold;
  int64_t rows, cols;
  Operand operands[3];
};

}  // namespace nnk

// Elements [begin, end) of the job, counted row by row. The output may be the very memory of an input.
NNK_KERNEL(random_run, (const RandomJob& job, int64_t begin, int64_t end), (job, begin, end))
