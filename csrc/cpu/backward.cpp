#include "loops.h"

namespace nnk::NNK_ISA {
namespace {

template <template <class> class Activation, class M>
void loop(double a, double b, void* const* data, int64_t count) {
  using T = typename M::T;
  const Activation<M> f(a, b);
  const T* grad = static_cast<const T*>(data[0]);
  const T* x = static_cast<const T*>(data[1]);
  T* grad_input = static_cast<T*>(data[2]);
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) grad_input[i] = times_slope<Activation<M>>(grad[i], f.d1(x[i]));
}

NNK_TABLE;

}  // namespace

Loop backward_loop(int activation, Arithmetic arithmetic) { return table[activation][arithmetic]; }

}  // namespace nnk::NNK_ISA
