// The seam between the bindings and the loops of the gated activations, y = f(gate) * up.
#pragma once

#include "../kernels.h"
#include "isa.h"

namespace nnk {

// An element stands at (row * row_stride + col) * step: step is 2 where gate and up alternate, 0 where one number is
// expanded.
struct GatedOperand {
  void* data;
  int64_t row_stride, step;
};

struct GatedJob {
  bool backward;  // grad, gate, up -> grad_gate, grad_up; else gate, up -> y
  int activation;
  Scalar scalar;
  double a, b;
  double limit, offset;     // the gate is held below limit, up within +-limit and then moved by offset
  bool limits_value;        // not the gate but f(gate) is held
  double gate_cap, up_cap;  // another factor is gate_cap tanh(gate / gate_cap), and up is held so; infinity: neither
  int64_t rows, cols;
  GatedOperand operands[kMaxOperands];
};

}  // namespace nnk

// Elements [begin, end) of the job, counted row by row.
NNK_KERNEL(gated, (const GatedJob& job, int64_t begin, int64_t end), (job, begin, end))
