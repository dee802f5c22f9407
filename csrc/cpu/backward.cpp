#include "pieces.h"

namespace nnk::NNK_ISA {
namespace {

#if defined(__AVX512F__)
template <template <class> class Activation, class M, class S>
void loop_by_pieces(double a, double b, void* const* data, int64_t count) {
  const Activation<M> f(a, b);
  slope_pieces<Activation, M>().run([&](float x) { return f.d1(x); }, static_cast<const S*>(data[1]),
                                    static_cast<S*>(data[2]), count, static_cast<const S*>(data[0]));
}
#endif

template <template <class> class Activation, class M>
NNK_HD void loop_by_formula(double a, double b, void* const* data, int64_t count) {
  using T = typename M::T;
  const Activation<M> f(a, b);
  const T* grad = static_cast<const T*>(data[0]);
  const T* x = static_cast<const T*>(data[1]);
  T* grad_input = static_cast<T*>(data[2]);
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) grad_input[i] = times_slope<Activation<M>>(grad[i], f.d1(x[i]));
}

template <template <class> class Activation, class M>
NNK_WAITS_FOR_MEMORY void light_loop(double a, double b, void* const* data, int64_t count) {
  loop_by_formula<Activation, M>(a, b, data, count);
}

template <template <class> class Activation, class M>
void loop(double a, double b, void* const* data, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (is_cut<M>(Cuts<Activation>::slope)) return loop_by_pieces<Activation, M, float>(a, b, data, count);
#endif
  if constexpr (is_light<Activation<M>, M>) return light_loop<Activation, M>(a, b, data, count);
  loop_by_formula<Activation, M>(a, b, data, count);
}

template <template <class> class Activation, class S>
constexpr Loop stored_loop() {
#if defined(__AVX512F__)
  if constexpr (is_cut<Fast>(Cuts<Activation>::slope)) return loop_by_pieces<Activation, Fast, S>;
#endif
  return nullptr;
}

NNK_TABLE;
NNK_STORED_TABLE;

}  // namespace

Loop backward_loop(int activation, Arithmetic arithmetic) { return table[activation][arithmetic]; }
Loop backward_loop(int activation, Scalar stored) { return stored_table[activation][stored == Scalar::f16]; }

}  // namespace nnk::NNK_ISA
