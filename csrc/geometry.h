// How tensors of one shape become rows of adjacent elements, the only layout that a kernel sees.
#pragma once

#include "kernels.h"

namespace nnk {

// A tensor with elements has at most 62 dimensions of more than one, since their product fits in 63 bits.
constexpr int kMaxDims = 62;

struct Geometry {
  int64_t rows, cols;
  int64_t row_strides[kMaxOperands];
};

// Orders the dimensions as they lie in the last operand (the output), merges those that continue each other in every
// operand, and succeeds if what is left is at most rows of adjacent elements.
inline bool plan(int dims, const int64_t* sizes, const int64_t* const* strides, int operands, Geometry* geometry) {
  for (int d = 0; d < dims; ++d) {
    if (sizes[d] == 0) {
      *geometry = {0, 0, {}};
      return true;
    }
  }
  int order[kMaxDims];
  int kept = 0;
  for (int d = 0; d < dims; ++d) {
    if (sizes[d] == 1) continue;
    if (kept == kMaxDims) return false;
    int at = kept++;
    for (; at > 0 && strides[operands - 1][order[at - 1]] < strides[operands - 1][d]; --at) order[at] = order[at - 1];
    order[at] = d;
  }

  // Runs from the innermost dimension outwards: [0] adjacent elements, [1] rows.
  int64_t extent[2] = {1, 1};
  int64_t step[2][kMaxOperands] = {};
  for (int o = 0; o < operands; ++o) step[0][o] = 1;
  int run = 0;
  for (int i = kept - 1; i >= 0; --i) {
    const int d = order[i];
    bool continues = true;
    for (int o = 0; o < operands; ++o) continues &= strides[o][d] == step[run][o] * extent[run];
    if (!continues) {
      if (++run > 1 || i == kept - 1) return false;
      for (int o = 0; o < operands; ++o) step[run][o] = strides[o][d];
    }
    extent[run] *= sizes[d];
  }
  // Rows that overlap may be read, but not written.
  if (run == 1 && step[1][operands - 1] < extent[0]) return false;
  *geometry = {extent[1], extent[0], {}};
  for (int o = 0; o < operands; ++o) geometry->row_strides[o] = run == 1 ? step[1][o] : extent[0];
  return true;
}

// The same for rows of elements that lie `steps` apart, which `plan` sees as adjacent: those of the dimension that is
// innermost in the last operand. An operand expanded from one number, of step 0, joins as the last one lies.
inline bool plan_with_steps(int dims, const int64_t* sizes, const int64_t* const* strides, int operands,
                            Geometry* geometry, int64_t* steps) {
  if (dims > kMaxDims) return false;
  const int64_t* last = strides[operands - 1];
  int inner = -1;
  for (int d = 0; d < dims; ++d) {
    if (sizes[d] > 1 && (inner < 0 || last[d] < last[inner])) inner = d;
  }
  int64_t counted[kMaxOperands][kMaxDims];
  const int64_t* rows[kMaxOperands];
  for (int i = operands - 1; i >= 0; --i) {
    const int64_t* own = strides[i];
    const int64_t step = inner < 0 ? 1 : own[inner];
    for (int d = 0; d < dims; ++d) {
      if (sizes[d] > 1 && (step ? own[d] % step : own[d])) return false;
      counted[i][d] = step ? own[d] / step : counted[operands - 1][d];
    }
    steps[i] = step;
    rows[i] = counted[i];
  }
  return steps[operands - 1] > 0 && plan(dims, sizes, rows, operands, geometry);
}

}  // namespace nnk
