#include "pieces.h"

namespace nnk::NNK_ISA {
namespace {

template <template <class> class Activation, class M>
void loop(double a, double b, void* const* data, int64_t count) {
  using T = typename M::T;
  const Activation<M> f(a, b);
  const T* x = static_cast<const T*>(data[0]);
  T* y = static_cast<T*>(data[1]);
#if defined(__AVX512F__)
  if constexpr (is_cut<M>(Cuts<Activation>::value)) {
    static const Pieces<M, Cuts<Activation>::value> pieces([](double x) { return Activation<Double>(0, 0).value(x); });
    return pieces.run([&](T x) { return f.value(x); }, x, count,
                      [&](int64_t i, __mmask16 here, __m512 v) { _mm512_mask_storeu_ps(y + i, here, v); });
  }
#endif
// In place, element i is read before it is written: there is nothing to carry from one iteration to the next.
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) y[i] = f.value(x[i]);
}

NNK_TABLE;

}  // namespace

Loop forward_loop(int activation, Arithmetic arithmetic) { return table[activation][arithmetic]; }

}  // namespace nnk::NNK_ISA
