// Which loop serves an activation: by pieces (AVX-512), one that memory limits, or its formula's.
#pragma once

#include "pieces.h"

namespace nnk::NNK_ISA {

// `Loops` has the cut of an activation, and its loops by pieces (with AVX-512, over what is stored as S) and by
// formula.
template <class Loops, template <class> class Activation, class M>
NNK_WAITS_FOR_MEMORY void light_loop(double a, double b, void* const* data, int64_t count) {
  Loops::template by_formula<Activation, M>(a, b, data, count);
}

template <class Loops, template <class> class Activation, class M>
void loop_of(double a, double b, void* const* data, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (is_cut<M>(Loops::template cut<Activation>)) {
    return Loops::template by_pieces<Activation, M, float>(a, b, data, count);
  }
#endif
  if constexpr (is_light<Activation<M>, M>) return light_loop<Loops, Activation, M>(a, b, data, count);
  Loops::template by_formula<Activation, M>(a, b, data, count);
}

template <class Loops, template <class> class Activation, class S>
constexpr Loop stored_loop_of() {
#if defined(__AVX512F__)
  if constexpr (is_cut<Fast>(Loops::template cut<Activation>)) return Loops::template by_pieces<Activation, Fast, S>;
#endif
  return nullptr;
}

}  // namespace nnk::NNK_ISA

// The tables of `Loops`.
#define NNK_LOOPS_ROW(name) {loop_of<Loops, name, Double>, loop_of<Loops, name, Single>, loop_of<Loops, name, Fast>},
#define NNK_STORED_ROW(name) {stored_loop_of<Loops, name, BFloat16>(), stored_loop_of<Loops, name, Half>()},
#define NNK_LOOPS_TABLES                                                   \
  constexpr Loop table[][kArithmetics] = {NNK_ACTIVATIONS(NNK_LOOPS_ROW)}; \
  constexpr Loop stored_table[][2] = {NNK_ACTIVATIONS(NNK_STORED_ROW)}
