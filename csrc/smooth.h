// The smooth activations. Each is a value and two derivatives at x, built on e = exp(-|...|) so that tails keep digits.
#pragma once

#include "exponentials.h"

namespace nnk::NNK_ISA {

// sigmoid(z + lo) = u / (u + u e^-z), with a u for which u e^-z is normal as long as the quotient is not 0, and
// infinite from there on (on a device, whose division is not for infinity, almost). No sign of z needs a case of its
// own. A power of two keeps the quotient normal too: what follows is the only rounding that may be to a subnormal
// number.
template <class M>
struct Odds {
  using T = typename M::T;
  using F = Float<T>;
  static constexpr T lift = sizeof(T) == 8 ? T(0x1p90) : T(0x1p22);      // of the numerator
  static constexpr T lower = sizeof(T) == 8 ? T(0x1p-186) : T(0x1p-88);  // u / lift
  static constexpr T large = sizeof(T) == 8 ? T(0x1p37) : T(0x1p39);

  T whole;

  template <class Lo = Exact>
  explicit NNK_HD Odds(T z, Lo lo = {}) : whole(one_plus_exponential(-z, -lo)) {}

  NNK_HD T sigmoid() const {
    if constexpr (M::exponential_is_cheap) return reciprocal<M>(whole) * unit();
    return underflowing_product(divide<M>(lift, whole), lower);
  }

  // v sigmoid(z). Where that is 0 or not infinite it is so for every z if |v| < large, and for a greater |v| as long as
  // e^z is.
  NNK_HD T times(T v) const {
    const bool liftable = magnitude(v) < large;
    return underflowing_product(divide<M>(underflowing_product(v, liftable ? lift : unit()), whole),
                                liftable ? lower : T(1));
  }

 private:
  static NNK_HD T unit() { return power_of_two<T>(F::odds_shift); }

  // u + u e^z
  template <class Lo>
  static NNK_HD T one_plus_exponential(T z, Lo lo) {
#if defined(__CUDA_ARCH__)
    if constexpr (M::exponential_is_cheap) {
      return flushed_power(madd(z, F::log2e, float(F::odds_shift))) + unit();
    }
    constexpr T highest = F::odds_high - 2;
#else
    constexpr T highest = F::odds_high;
#endif
    const Reduced<M, F::odds_shift> reduced(at_least(at_most(z, highest), F::odds_low), lo);
    return madd(T(1) + reduced.tail, reduced.scale, unit());
  }
};

// sigmoid and its derivatives at z + lo: s = 1 / (1 + e) above 0 and e / (1 + e) below, e = exp(-|z|).
template <class M>
struct Logistic {
  using T = typename M::T;

  using Tail = Exponential<M, Float<T>::subnormal_shift>;  // for a slope of any size

  bool positive;
  Tail tail;
  T e, r;

  explicit NNK_HD Logistic(T z) : Logistic(z >= T(0), Tail(negative_magnitude(z))) {}
  NNK_HD Logistic(T z, Exact) : Logistic(z) {}
  NNK_HD Logistic(T z, T lo) : Logistic(z >= T(0), Tail(negative_magnitude(z), z >= T(0) ? -lo : lo)) {}

  // v sigmoid'(z)
  NNK_HD T slope(T v) const { return tail.times(v * (r * r)); }

  // v sigmoid''(z)
  NNK_HD T curvature(T v) const {
    const T bend = v * ((T(1) - e) * r);
    return slope(positive ? -bend : bend);
  }

 private:
  NNK_HD Logistic(bool positive, Tail tail)
      : positive(positive), tail(tail), e(tail.value()), r(reciprocal<M>(T(1) + e)) {}
};

// (1 + e)^2 for 0 <= e <= 1, with less rounding than squaring a sum.
template <class T>
NNK_HD T square_of_one_plus(T e) {
  return madd(e, T(2) + e, T(1));
}

template <class M>
struct sigmoid {
  using T = typename M::T;
  NNK_HD sigmoid(double, double) {}

  NNK_HD T value(T x) const { return Odds<M>(x).sigmoid(); }
  NNK_HD T d1(T x) const {
    const Exponential<M> tail(negative_magnitude(x));
    return tail.over(square_of_one_plus(tail.value()));
  }

  NNK_HD T d2(T x) const { return Logistic<M>(x).curvature(T(1)); }
};

template <class M>
struct tanh {
  using T = typename M::T;
  NNK_HD tanh(double, double) {}

  // Where 1 - e, e = exp(-2 |x|), does not cancel.
  static NNK_HD T far_from_zero(T x) {
    T e;
    if constexpr (M::exponential_is_cheap) {
      e = flushed_power(magnitude(x) * (T(-2) * Float<T>::log2e));
    } else {
      e = Exponential<M>(underflowing_product(T(-2), magnitude(x))).value();
    }
    return with_sign((T(1) - e) * reciprocal<M>(T(1) + e), x);
  }

  NNK_HD T value(T x) const {
    if constexpr (M::exponential_is_cheap) {
      const T square = x * x;
      const T near = x * madd(square, madd(square, T(2.0 / 15), T(-1.0 / 3)), T(1));
      const T far = formed(far_from_zero(x));
      return magnitude(x) < T(0.125) ? near : far;
    } else {
      const T m = expm1_of<M>(underflowing_product(T(-2), magnitude(x)));
      return with_sign(underflowing_product(m, reciprocal<M>(T(2) + m)), x);
    }
  }

  NNK_HD T d1(T x) const {
    const Exponential<M> tail(underflowing_product(T(-2), magnitude(x)));
    return tail.over(T(0.25) * square_of_one_plus(tail.value()));
  }

  NNK_HD T d2(T x) const { return T(-2) * bend(x); }

  // tanh(x) tanh'(x)
  static NNK_HD T bend(T x) { return bend(x, Exponential<M>(underflowing_product(T(-2), magnitude(x)))); }

  // The same, told exp(-2 |x|).
  static NNK_HD T bend(T x, const Exponential<M>& tail) {
    const T e = tail.value(), square = square_of_one_plus(e);
    return with_sign(tail.times(divide<M>(T(-4) * tail.minus_one(), square * (T(1) + e))), x);
  }
};

template <class M>
struct tanhshrink {
  using T = typename M::T;
  NNK_HD tanhshrink(double, double) {}

  NNK_HD T value(T x) const {
    const T square = underflowing_product(x, x);
    const T ratio = underflowing_product(square, polynomial<M::Table::tanhres>(square - T(1.125)));
    const T small = underflowing_product(x, ratio);
    const T large = x - (M::precise ? tanh<M>(0, 0).value(x) : tanh<M>::far_from_zero(x));
    return magnitude(x) < T(1.5) ? small : large;
  }

  NNK_HD T d1(T x) const {
    // Where tanh^2 nears 1, its complement 4 e / (1 + e)^2, e = exp(-2 |x|), has fewer roundings.
    const T square = underflowing_product(x, x);
    const T near = underflowing_product(square, polynomial<M::Table::tanh2>(square - T(0.18)));
    const Reduced<M, 0> reduced(at_least(T(-2) * magnitude(x), T(-40)), Exact());
    const T e = madd(reduced.scale, reduced.tail, reduced.scale);
    return magnitude(x) < T(0.6) ? near : T(1) - divide<M>(T(4) * e, square_of_one_plus(e));
  }

  NNK_HD T d2(T x) const { return T(2) * tanh<M>::bend(x); }
};

template <class M>
struct softplus {
  using T = typename M::T;
  T beta, inverse_beta, threshold;
  NNK_HD softplus(double beta, double threshold)
      : beta(T(beta)), inverse_beta(T(1) / T(beta)), threshold(T(threshold)) {}

  NNK_HD T value(T x) const {
    const Pair<T> z = argument(x);
    const Exponential<M> tail(negative_magnitude(at_most(z.hi, T(40))), z.hi < T(0) ? z.lo : -z.lo);
    const T log = tail.times_value(log1p_ratio<M>(tail.value()));
    const T sum = (z.hi < T(0) ? T(0) : z.hi) + log;
    return z.hi > threshold ? x : underflowing_product(sum, inverse_beta);
  }

  NNK_HD T d1(T x) const {
    const Pair<T> z = argument(x);
    const T s = Odds<M>(z.hi, z.lo).sigmoid();
    return z.hi > threshold ? T(1) : s;
  }

  NNK_HD T d2(T x) const {
    const Pair<T> z = argument(x);
    const T slope = Logistic<M>(z.hi, z.lo).slope(beta);
    return z.hi > threshold ? T(0) : slope;
  }

 private:
  NNK_HD Pair<T> argument(T x) const {
    Pair<T> z = multiply<M>(x, {beta, T(0)});
    // Where the product overflows, its error would be infinity minus infinity.
    z.lo = magnitude(z.hi) < Float<T>::far ? z.lo : T(0);
    return z;
  }
};

template <class M>
struct logsigmoid {
  using T = typename M::T;
  NNK_HD logsigmoid(double, double) {}

  NNK_HD T value(T x) const {
    const Exponential<M> tail(negative_magnitude(at_least(x, T(-40))));
    return (x < T(0) ? x : T(-0.0)) - tail.times_value(log1p_ratio<M>(tail.value()));
  }

  NNK_HD T d1(T x) const { return Odds<M>(-x).sigmoid(); }
  NNK_HD T d2(T x) const { return Logistic<M>(x).slope(T(-1)); }
};

// 1 / x to twice the type's digits, finite also where that is not.
template <class T>
NNK_HD Pair<T> inverse(T x) {
  constexpr T largest = Float<T>::largest;
  const T hi = T(1) / x;
  if (magnitude(hi) > largest) return {with_sign(largest, hi), T(0)};
  return {hi, -product_error(hi, x, T(1)) / x};
}

// above x for x > 0, and below it c width expm1(x / width). Serves elu, celu and selu; of those, only celu has a width,
// which may be negative: then z = x / width grows as x falls, up to infinite results.
template <class M, bool has_width>
struct ExponentialUnit {
  using T = typename M::T;
  using F = Float<T>;
  using Bits = typename F::Bits;

  T above;
  T knee;  // below it a result differs from above x
  Pair<T> inverse_width;
  Multiple<M> slope, bend;  // of e^z
  // (c width) 2^lift and 2^-lift: a power of two that a large z leaves to the factor, lest e^z be infinite before c
  // e^z.
  T lifted, unit;
  Bits lift;
  Interval<T> value_range, slope_range, bend_range;

  explicit NNK_HD ExponentialUnit(T above, T c, T width = T(1))
      : above(above),
        knee(has_width ? F::half_ulp * -magnitude(width) : T(0)),
        inverse_width(inverse(width)),
        slope(has_width ? T(1) : c, width < T(0)),
        bend(has_width ? inverse_width.hi : c, width < T(0)) {
    const T factor = has_width ? width : c;
    const bool grows = width < T(0);
    const Bits most = 2 - exponent_of(factor);
    lift = !grows || most < 0 ? 0 : most < F::bias - 1 ? most : F::bias - 1;
    lifted = factor * power_of_two<T>(lift);
    unit = power_of_two<T>(-lift);
    value_range = {grows ? held(T(F::bias - 1 + lift) * T(F::ln2) * width) : held(T(-40) * width), T(0)};
    slope_range = range(slope, width);
    bend_range = range(bend, width);
  }

  // The comparison keeps the sign of -0, and an x whose quotient by the width would be subnormal.
  NNK_HD T value(T x) const {
    const auto z = argument(value_range.hold(x));
    const Reduced<M, 0> reduced(z.hi, z.lo, -lift);
    const T m = underflowing_product(lifted, madd(reduced.scale, reduced.tail, reduced.scale - unit));
    return x < knee ? m : underflowing_product(above, x);
  }

  NNK_HD T d1(T x) const {
    const auto z = argument(slope_range.hold(x));
    const T below = slope.times_exponential(z.hi, z.lo);
    return x > T(0) ? above : below;
  }

  NNK_HD T d2(T x) const {
    const auto z = argument(bend_range.hold(x));
    const T below = bend.times_exponential(z.hi, z.lo);
    return x > T(0) ? T(0) : below;
  }

 private:
  NNK_HD auto argument(T x) const {
    if constexpr (has_width) {
      return multiply<M>(x, inverse_width);
    } else {
      return Pair<T, Exact>{x, {}};
    }
  }

  // Where x / width is beyond what `multiple` takes.
  static NNK_HD Interval<T> range(const Multiple<M>& multiple, T width) {
    const Interval<T> z = multiple.range;
    return width < T(0) ? Interval<T>{held(z.high * width), z.low * width}
                        : Interval<T>{held(z.low * width), z.high * width};
  }

  static NNK_HD T held(T bound) { return at_least(bound, -F::largest); }
};

template <class M>
struct elu : ExponentialUnit<M, false> {
  using T = typename M::T;
  NNK_HD elu(double alpha, double) : ExponentialUnit<M, false>(T(1), T(alpha)) {}
};

template <class M>
struct celu : ExponentialUnit<M, true> {
  using T = typename M::T;
  NNK_HD celu(double alpha, double) : ExponentialUnit<M, true>(T(1), T(1), T(alpha)) {}
};

template <class M>
struct selu : ExponentialUnit<M, false> {
  using T = typename M::T;
  static constexpr double alpha = 1.6732632423543772848, scale = 1.0507009873554804934;
  NNK_HD selu(double, double) : ExponentialUnit<M, false>(T(scale), T(scale * alpha)) {}
};

template <class M>
struct softsign {
  using T = typename M::T;
  NNK_HD softsign(double, double) {}

  NNK_HD T value(T x) const {
    // Beyond the bound it is 1 or -1. The numerator is lifted for the sake of a subnormal x.
    constexpr T bound = T(0x1p60), lift = T(0x1p60);
    x = at_least(at_most(x, bound), -bound);
    return underflowing_product(underflowing_product(x, lift) / (T(1) + magnitude(x)), T(1) / lift);
  }

  NNK_HD T d1(T x) const {
    constexpr T bound = sizeof(T) == 8 ? T(0x1p538) : T(0x1p76);  // beyond which it is 0
    const T r = T(1) / (T(1) + (magnitude(x) > bound ? T(__builtin_inf()) : magnitude(x)));
    return underflowing_product(r, r);
  }

  NNK_HD T d2(T x) const {
    const T r = T(1) / (T(1) + magnitude(x));
    return x == T(0) ? T(0) : with_sign(T(2) * r * r * r, -x);
  }
};

}  // namespace nnk::NNK_ISA
