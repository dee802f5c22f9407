#include "pieces.h"

namespace nnk::NNK_ISA {
namespace {

template <template <class> class Activation, class M>
void loop(double a, double b, void* const* data, int64_t count) {
  using T = typename M::T;
  const Activation<M> f(a, b);
  const T* grad = static_cast<const T*>(data[0]);
  const T* x = static_cast<const T*>(data[1]);
  T* grad_input = static_cast<T*>(data[2]);
#if defined(__AVX512F__)
  if constexpr (is_cut<M>(Cuts<Activation>::slope)) {
    static const Pieces<M, Cuts<Activation>::slope> pieces([](double x) { return Activation<Double>(0, 0).d1(x); });
    return pieces.run([&](T x) { return f.d1(x); }, x, count, [&](int64_t i, __mmask16 here, __m512 slope) {
      const __m512 product = pieces.product(_mm512_maskz_loadu_ps(here, grad + i), slope);
      _mm512_mask_storeu_ps(grad_input + i, here, product);
    });
  }
#endif
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) grad_input[i] = times_slope<Activation<M>>(grad[i], f.d1(x[i]));
}

NNK_TABLE;

}  // namespace

Loop backward_loop(int activation, Arithmetic arithmetic) { return table[activation][arithmetic]; }

}  // namespace nnk::NNK_ISA
