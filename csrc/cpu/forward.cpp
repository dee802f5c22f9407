#include "loops.h"

namespace nnk::NNK_ISA {
namespace {

template <template <class> class Activation, class M>
void loop(double a, double b, void* const* data, int64_t count) {
  using T = typename M::T;
  const Activation<M> f(a, b);
  const T* x = static_cast<const T*>(data[0]);
  T* y = static_cast<T*>(data[1]);
// In place, element i is read before it is written: there is nothing to carry from one iteration to the next.
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) y[i] = f.value(x[i]);
}

NNK_TABLE;

}  // namespace

Loop forward_loop(int activation, Arithmetic arithmetic) { return table[activation][arithmetic]; }

}  // namespace nnk::NNK_ISA
