// Leaky integrate-and-fire neurons over time: v[t] = decay v[t-1] + current[t] less the reset, fired where v >
// threshold. A reset takes the threshold off v[t-1], undecayed, or empties the neuron. What is not adjacent is read by
// its strides.
#pragma once

#include "../kernels.h"
#include "isa.h"

namespace nnk {

// What stands for the derivative of the step at z = slope (v - threshold).
enum class Surrogate : int { fast_sigmoid, arctan, triangular, sigmoid };

// Numbers of `cols` neurons in each row, at each step, by their distances in elements.
struct LifOperand {
  void* data;  // null: not given
  int64_t time, row, col;
};

struct LifJob {
  Scalar scalar;
  Surrogate surrogate;
  bool subtract, detach;  // the reset: by subtraction, without a gradient of its own
  double decay, threshold, slope;
  int64_t steps, neurons, cols;
  LifOperand current, start;            // `start`, before the first step, has no time; nor has `potential`
  LifOperand spikes, potential;         // forward writes them, backward reads their gradients
  LifOperand grad_current, grad_start;  // backward writes them
};

// Neurons of the smallest share that is worth a thread's while.
constexpr int64_t kLifTile = 1024;

}  // namespace nnk

NNK_KERNEL(lif, (const LifJob& job, int64_t begin, int64_t end), (job, begin, end))
NNK_KERNEL(lif_backward, (const LifJob& job, int64_t begin, int64_t end), (job, begin, end))
