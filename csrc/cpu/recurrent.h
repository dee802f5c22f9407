// What a gated recurrent unit does after its two products of matrices: gates, candidate and the next state.
#pragma once

#include "../kernels.h"
#include "isa.h"

namespace nnk {

struct GruJob {
  Scalar scalar;
  int64_t width;            // of the state; the blocks r, z and n of `given` and `recurred` are as wide
  Operand given, recurred;  // three blocks in each row
  Operand hidden, grad;     // the state before, and the gradient of the one after, which backward reads
  Operand next;             // forward writes it
  Operand for_given, for_recurred, for_hidden;  // backward writes them
};

}  // namespace nnk

// The rows [begin, end).
NNK_KERNEL(gru_gates, (const GruJob& job, int64_t begin, int64_t end), (job, begin, end))
NNK_KERNEL(gru_gates_backward, (const GruJob& job, int64_t begin, int64_t end), (job, begin, end))
