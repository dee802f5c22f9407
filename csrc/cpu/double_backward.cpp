#include "loops.h"

namespace nnk::NNK_ISA {
namespace {

template <template <class> class Activation, class M>
void loop(double a, double b, void* const* data, int64_t count) {
  using T = typename M::T;
  const Activation<M> f(a, b);
  const T* grad_grad = static_cast<const T*>(data[0]);
  const T* grad = static_cast<const T*>(data[1]);
  const T* x = static_cast<const T*>(data[2]);
  T* for_grad = static_cast<T*>(data[3]);
  T* for_x = static_cast<T*>(data[4]);
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    for_grad[i] = times_slope<Activation<M>>(grad_grad[i], f.d1(x[i]));
    for_x[i] = times_slope<Activation<M>>(grad_grad[i] * grad[i], f.d2(x[i]));
  }
}

#define NNK_ROW(name) {loop<name, Double>, loop<name, Single>, loop<name, Fast>},
constexpr Loop table[][kArithmetics] = {NNK_ACTIVATIONS(NNK_ROW)};
#undef NNK_ROW

}  // namespace

Loop double_backward_loop(int activation, Arithmetic arithmetic) {
  // Rare, and twice the code of the others: the fast arithmetic would not pay for its size.
  return table[activation][arithmetic == kFast ? kSingle : arithmetic];
}

}  // namespace nnk::NNK_ISA
