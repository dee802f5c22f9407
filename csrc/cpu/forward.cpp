#include "passes.h"

namespace nnk::NNK_ISA {
namespace {

struct Loops {
  template <template <class> class Activation>
  static constexpr Cut cut = Cuts<Activation>::value;

#if defined(__AVX512F__)
  template <template <class> class Activation, class M, class S>
  static void by_pieces(double a, double b, void* const* data, int64_t count) {
    const Activation<M> f(a, b);
    value_pieces<Activation, M, S>().run([&](float x) { return f.value(x); }, static_cast<const S*>(data[0]),
                                         static_cast<S*>(data[1]), count);
  }
#endif

  template <template <class> class Activation, class M>
  static NNK_HD void by_formula(double a, double b, void* const* data, int64_t count) {
    using T = typename M::T;
    const Activation<M> f(a, b);
    const T* x = static_cast<const T*>(data[0]);
    T* y = static_cast<T*>(data[1]);
    // In place, element i is read before it is written: there is nothing to carry from one iteration to the next.
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) y[i] = f.value(x[i]);
  }
};

NNK_LOOPS_TABLES;

}  // namespace

Loop forward_loop(int activation, Arithmetic arithmetic) { return table[activation][arithmetic]; }
Loop forward_loop(int activation, Scalar stored) { return stored_table[activation][stored == Scalar::f16]; }

}  // namespace nnk::NNK_ISA
