// Heads that find slots of a memory by what these hold: where = sharpen(shift(interpolate(softmax(strength cos(key,
// slot))))), of which all but the softmax may be left out. Everything is read by its strides.
#pragma once

#include "../kernels.h"
#include "isa.h"

namespace nnk {

// In the order of the operators' arguments. `row` runs over slots for the memory, over heads for all others; `col` over
// numbers of a slot or key, slots, or steps of the shift.
enum AddressingPart : int { kMemory, kKey, kStrength, kGate, kPrevious, kShift, kSharpness, kAddressingParts };

struct AddressingOperand {
  void* data;  // null: not given, or not wanted
  int64_t batch, row, col;
};

struct AddressingJob {
  Scalar scalar;
  double eps;
  int64_t heads, slots, size, width;  // `width` of the shift is odd
  AddressingOperand parts[kAddressingParts];
  AddressingOperand where;                        // forward writes it, backward reads its gradient
  AddressingOperand gradients[kAddressingParts];  // backward writes them
};

// What `turned` is held above before its logarithm is taken.
constexpr double kAddressingFloor = 1e-12;

}  // namespace nnk

// The memories [begin, end) of the batch.
NNK_KERNEL(content_addressing, (const AddressingJob& job, int64_t begin, int64_t end), (job, begin, end))
NNK_KERNEL(content_addressing_backward, (const AddressingJob& job, int64_t begin, int64_t end), (job, begin, end))
