#include "pieces.h"

namespace nnk::NNK_ISA {
namespace {

#if defined(__AVX512F__)
template <template <class> class Activation, class M, class S>
void loop_by_pieces(double a, double b, void* const* data, int64_t count) {
  const Activation<M> f(a, b);
  value_pieces<Activation, M>().run([&](float x) { return f.value(x); }, static_cast<const S*>(data[0]),
                                    static_cast<S*>(data[1]), count);
}
#endif

template <template <class> class Activation, class M>
NNK_HD void loop_by_formula(double a, double b, void* const* data, int64_t count) {
  using T = typename M::T;
  const Activation<M> f(a, b);
  const T* x = static_cast<const T*>(data[0]);
  T* y = static_cast<T*>(data[1]);
// In place, element i is read before it is written: there is nothing to carry from one iteration to the next.
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) y[i] = f.value(x[i]);
}

template <template <class> class Activation, class M>
NNK_WAITS_FOR_MEMORY void light_loop(double a, double b, void* const* data, int64_t count) {
  loop_by_formula<Activation, M>(a, b, data, count);
}

template <template <class> class Activation, class M>
void loop(double a, double b, void* const* data, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (is_cut<M>(Cuts<Activation>::value)) return loop_by_pieces<Activation, M, float>(a, b, data, count);
#endif
  if constexpr (is_light<Activation<M>, M>) return light_loop<Activation, M>(a, b, data, count);
  loop_by_formula<Activation, M>(a, b, data, count);
}

template <template <class> class Activation, class S>
constexpr Loop stored_loop() {
#if defined(__AVX512F__)
  if constexpr (is_cut<Fast>(Cuts<Activation>::value)) return loop_by_pieces<Activation, Fast, S>;
#endif
  return nullptr;
}

NNK_TABLE;
NNK_STORED_TABLE;

}  // namespace

Loop forward_loop(int activation, Arithmetic arithmetic) { return table[activation][arithmetic]; }
Loop forward_loop(int activation, Scalar stored) { return stored_table[activation][stored == Scalar::f16]; }

}  // namespace nnk::NNK_ISA
