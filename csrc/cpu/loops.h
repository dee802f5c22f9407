// What the translation units of one instruction set share: a loop for each activation, pass and arithmetic.
#pragma once

#include "../activations.h"
#include "../kernels.h"
#include "convert.h"
#include "isa.h"

namespace nnk::NNK_ISA {

// `data` holds the operands in the order of Pass, all of the loop's scalar type; outputs may be the memory of inputs.
using Loop = void (*)(double a, double b, void* const* data, int64_t count);

enum Arithmetic : int { kDouble, kSingle, kFast, kArithmetics };

Loop forward_loop(int activation, Arithmetic arithmetic);
Loop backward_loop(int activation, Arithmetic arithmetic);
Loop double_backward_loop(int activation, Arithmetic arithmetic);

// Whether a formula takes less time than loading its operands. Not for 16 bits, whose widened tiles lie in the
// first-level cache.
template <class Formula, class M>
constexpr bool is_light = M::precise && (__is_base_of(Masking, Formula) || __is_base_of(Straight<M>, Formula));

// For 16-bit operands as they are stored, fast; null where the loops for tiles of floats serve.
Loop forward_loop(int activation, Scalar stored);
Loop backward_loop(int activation, Scalar stored);

// Elements [begin, end) of the job.
void run(const Job& job, int64_t begin, int64_t end);

}  // namespace nnk::NNK_ISA
