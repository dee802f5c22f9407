// The activations that draw random numbers, dropout and Bernoulli units. The seed is enough to draw them again; reading
// dropout's decisions, one bit each, or rrelu's slopes is cheaper.
#pragma once

#include "../kernels.h"
#include "isa.h"

namespace nnk {

constexpr int64_t kRandomTile = 512;  // elements

enum class RandomPass : int {
  rrelu = 0,           // x -> y
  rrelu_backward = 1,  // grad, x -> grad_x
  dropout = 2,         // x -> y
  bernoulli = 3,       // x -> y
  dropout_again = 4,   // x -> y as `bits` tell; with grad it is dropout's backward pass
  rrelu_kept = 5,      // x -> slopes, y
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
  // One for each element, set where dropout keeps it; written forward unless null. Then parts begin at whole tiles.
  uint8_t* bits = nullptr;
};

}  // namespace nnk

// Elements [begin, end) of the job, counted row by row. The output may be the very memory of an input.
NNK_KERNEL(random_run, (const RandomJob& job, int64_t begin, int64_t end), (job, begin, end))
