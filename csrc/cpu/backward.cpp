#include "passes.h"

namespace nnk::NNK_ISA {
namespace {

struct Loops {
  template <template <class> class Activation>
  static constexpr Cut cut = Cuts<Activation>::slope;

#if defined(__AVX512F__)
  template <template <class> class Activation, class M, class S>
  static void by_pieces(double a, double b, void* const* data, int64_t count) {
    const Activation<M> f(a, b);
    slope_pieces<Activation, M, S>().run([&](float x) { return f.d1(x); }, static_cast<const S*>(data[1]),
                                         static_cast<S*>(data[2]), count, static_cast<const S*>(data[0]));
  }
#endif

  template <template <class> class Activation, class M>
  static NNK_HD void by_formula(double a, double b, void* const* data, int64_t count) {
    using T = typename M::T;
    const Activation<M> f(a, b);
    const T* grad = static_cast<const T*>(data[0]);
    const T* x = static_cast<const T*>(data[1]);
    T* grad_input = static_cast<T*>(data[2]);
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) grad_input[i] = times_slope<Activation<M>>(grad[i], f.d1(x[i]));
  }
};

NNK_LOOPS_TABLES;

}  // namespace

Loop backward_loop(int activation, Arithmetic arithmetic) { return table[activation][arithmetic]; }
Loop backward_loop(int activation, Scalar stored) { return stored_table[activation][stored == Scalar::f16]; }

}  // namespace nnk::NNK_ISA
