// Smooth activations that are another one, scaled or under a root.
#pragma once

#include "smooth.h"

namespace nnk::NNK_ISA {

// c tanh(x / c) for c > 0.
template <class M>
struct softcap {
  using T = typename M::T;
  T cap;
  Pair<T> inverse_cap;
  NNK_HD softcap(double cap, double) : cap(T(cap)), inverse_cap(inverse(T(cap))) {}

  NNK_HD T value(T x) const {
    constexpr T linear = sizeof(T) == 8 ? T(-0x1p-26) : T(-0x1p-12);  // above it, x is nearer than any other number
    const Pair<T> z = argument(x);
    const Reduced<M, 0> reduced(at_least(z.hi, T(-40)), z.lo);
    const T m = madd(reduced.scale, reduced.tail, reduced.scale - T(1));
    const T y = cap * divide<M>(m, T(2) + m);
    return z.hi > linear ? x : with_sign(y, x);
  }

  NNK_HD T d1(T x) const {
    const Exponential<M> tail = exponential(x);
    return tail.over(T(0.25) * square_of_one_plus(tail.value()));
  }

  NNK_HD T d2(T x) const { return T(-2) * inverse_cap.hi * tanh<M>::bend(x, exponential(x)); }

 private:
  // -2 |x / c|. Where it is far from 0, its error could be infinity minus infinity.
  NNK_HD Pair<T> argument(T x) const {
    const Pair<T> z = multiply<M>(T(-2) * magnitude(x), inverse_cap);
    return {z.hi, z.hi > -Float<T>::far ? z.lo : T(0)};
  }

  NNK_HD Exponential<M> exponential(T x) const {
    const Pair<T> z = argument(x);
    return Exponential<M>(z.hi, z.lo);
  }
};

// sqrt(log(1 + e^x)): below 0, where the logarithm would be 0 long before its root is, e^(x/2) sqrt(log(1 + e) / e),
// e = e^-|x|.
template <class M>
struct sqrtsoftplus {
  using T = typename M::T;
  NNK_HD sqrtsoftplus(double, double) {}

  NNK_HD T value(T x) const {
    const Parts of(x);
    return x < T(0) ? of.half.times(of.root) : of.root;
  }

  NNK_HD T d1(T x) const {
    const Parts of(x);
    const T slope = T(1) / (T(2) * of.root * (T(1) + of.e));
    return x < T(0) ? of.half.times(slope) : slope;
  }

  // s^2 (2 l - 1) / (4 l^(3/2)) e^(x/2) below 0, s = 1 / (1 + e) and l the logarithm's ratio to e; above, the
  // logarithm, and 2 l e.
  NNK_HD T d2(T x) const {
    const Parts of(x);
    const T s = T(1) / (T(1) + of.e), bounded = at_most(of.square, Float<T>::far);
    const T bend = (T(2) * bounded * (x < T(0) ? T(1) : of.e) - T(1)) * (s * s) / (T(4) * of.root) / of.square;
    return x < T(0) ? of.half.times(bend) : bend;
  }

 private:
  struct Parts {
    Exponential<M> half;  // e^-|x / 2|
    T e, square, root;
    explicit NNK_HD Parts(T x) : half(underflowing_product(T(0.5), negative_magnitude(x))) {
      e = underflowing_product(half.value(), half.value());
      const T ratio = log1p_ratio<M>(e);
      square = x < T(0) ? ratio : madd(e, ratio, x);
      root = square_root<M>(square);
    }
  };
};

}  // namespace nnk::NNK_ISA
