// The smooth activations. Each is a value and two derivatives at x, built on e = exp(-|...|) so that tails keep digits.
#pragma once

#include "math.h"

namespace nnk::NNK_ISA {

// sigmoid(z + lo) = u / (u + u e^-z), with a u that keeps both terms normal until the quotient is far below the
// smallest subnormal number: the quotient is the only rounding there, and neither sign of z needs a case of its own.
template <class M>
struct Odds {
  using T = typename M::T;
  using F = Float<T>;
  static constexpr T unit = F::odds_unit;

  T whole;

  template <class Lo = Exact>
  explicit NNK_HD Odds(T z, Lo lo = {}) : whole(unit + scaled_exponential(-z, -lo)) {}

  NNK_HD T sigmoid() const { return divide<M>(unit, whole); }

  // v sigmoid(z), for |v| < 2^39 (double: 2^37) where z < -odds_high. A small v would vanish in v u.
  NNK_HD T times(T v) const {
    const bool small = magnitude(v) < T(1);
    const T ratio = divide<M>(small ? unit : v * unit, whole);
    return small ? v * ratio : ratio;
  }

 private:
  // u e^z
  template <class Lo>
  static NNK_HD T scaled_exponential(T z, Lo lo) {
#if defined(__CUDA_ARCH__)
    if constexpr (M::exponential_is_cheap) {
      float e;
      asm("ex2.approx.f32 %0, %1;" : "=f"(e) : "f"(madd(z, F::log2e, float(F::odds_shift))));
      return e;
    }
#endif
    const Reduced<M, F::odds_shift> reduced(at_least(at_most(z, F::odds_high), F::odds_low), lo);
    return (T(1) + reduced.tail) * reduced.scale;
  }
};

// sigmoid and its derivatives at z + lo: s = 1 / (1 + e) above 0 and e / (1 + e) below, e = exp(-|z|).
template <class M>
struct Logistic {
  using T = typename M::T;

  bool positive;
  Exponential<M> tail;
  T e, r;

  explicit NNK_HD Logistic(T z) : Logistic(z >= T(0), Exponential<M>(negative_magnitude(z))) {}
  NNK_HD Logistic(T z, Exact) : Logistic(z) {}
  NNK_HD Logistic(T z, T lo) : Logistic(z >= T(0), Exponential<M>(negative_magnitude(z), z >= T(0) ? -lo : lo)) {}

  // v sigmoid'(z)
  NNK_HD T slope(T v) const { return tail.times(v * (r * r)); }

  // v sigmoid''(z)
  NNK_HD T curvature(T v) const {
    const T bend = v * ((T(1) - e) * r);
    return slope(positive ? -bend : bend);
  }

 private:
  NNK_HD Logistic(bool positive, Exponential<M> tail)
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
    return divide<M>(tail.value(), square_of_one_plus(tail.value()));
  }

  NNK_HD T d2(T x) const { return Logistic<M>(x).curvature(T(1)); }
};

template <class M>
struct tanh {
  using T = typename M::T;
  NNK_HD tanh(double, double) {}

  // Where 1 - e, e = exp(-2 |x|), does not cancel.
  static NNK_HD T far_from_zero(T x) {
    const T e = Exponential<M>(T(-2) * magnitude(x)).value();
    return with_sign((T(1) - e) * reciprocal<M>(T(1) + e), x);
  }

  NNK_HD T value(T x) const {
    if constexpr (M::exponential_is_cheap) {
      const T square = x * x;
      const T near = x * madd(square, madd(square, T(2.0 / 15), T(-1.0 / 3)), T(1));
      return magnitude(x) < T(0.125) ? near : far_from_zero(x);
    } else {
      const T m = expm1_of<M>(T(-2) * magnitude(x));
      return with_sign(divide<M>(m, T(2) + m), x);
    }
  }

  NNK_HD T d1(T x) const {
    const Exponential<M> tail(T(-2) * magnitude(x));
    return divide<M>(T(4) * tail.value(), square_of_one_plus(tail.value()));
  }

  NNK_HD T d2(T x) const { return T(-2) * bend(x); }

  // tanh(x) tanh'(x)
  static NNK_HD T bend(T x) {
    const Exponential<M> tail(T(-2) * magnitude(x));
    const T e = tail.value(), square = square_of_one_plus(e);
    return with_sign(tail.times(divide<M>(T(-4) * tail.minus_one(), square * (T(1) + e))), x);
  }
};

template <class M>
struct tanhshrink {
  using T = typename M::T;
  NNK_HD tanhshrink(double, double) {}

  NNK_HD T value(T x) const {
    const T square = x * x;
    const T small = x * (square * polynomial<M::Table::tanhres>(square - T(1.125)));
    const T large = x - (M::precise ? tanh<M>(0, 0).value(x) : tanh<M>::far_from_zero(x));
    return magnitude(x) < T(1.5) ? small : large;
  }

  NNK_HD T d1(T x) const {
    const Reduced<M, 0> reduced(at_least(T(-2) * magnitude(x), T(-40)), Exact());
    const T m = madd(reduced.scale, reduced.tail, reduced.scale - T(1)),
            e = madd(reduced.scale, reduced.tail, reduced.scale);
    // Where tanh^2 nears 1, its complement has fewer roundings to square.
    const bool near = magnitude(x) < T(1);
    const T ratio = divide<M>(near ? m * m : T(4) * e, square_of_one_plus(e));
    return near ? ratio : T(1) - ratio;
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
    const Exponential<M> tail(negative_magnitude(z.hi), z.hi < T(0) ? z.lo : -z.lo);
    const T log = tail.value() * log1p_ratio<M>(tail.value());
    const T sum = (z.hi < T(0) ? T(0) : z.hi) + log;
    return z.hi > threshold ? x : sum * inverse_beta;
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
    const Exponential<M> tail(negative_magnitude(x));
    const T log = tail.value() * log1p_ratio<M>(tail.value());
    return (x < T(0) ? x : T(0)) - log;
  }

  NNK_HD T d1(T x) const { return Odds<M>(-x).sigmoid(); }
  NNK_HD T d2(T x) const { return Logistic<M>(x).slope(T(-1)); }
};

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
    const Reduced<M, 0> reduced(z.hi, z.lo, Exact(), -lift);
    const T m = lifted * madd(reduced.scale, reduced.tail, reduced.scale - unit);
    return x < knee ? m : above * x;
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

  static NNK_HD Pair<T> inverse(T width) {
    const T hi = T(1) / width;
    if (magnitude(hi) > F::largest) return {with_sign(F::largest, hi), T(0)};
    return {hi, -product_error(hi, width, T(1)) / width};
  }
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
    constexpr T largest = sizeof(T) == 8 ? T(1.7976931348623157e308) : T(3.40282347e38);
    x = at_least(at_most(x, largest), -largest);
    return x / (T(1) + magnitude(x));
  }

  NNK_HD T d1(T x) const {
    const T r = T(1) / (T(1) + magnitude(x));
    return r * r;
  }

  NNK_HD T d2(T x) const {
    const T r = T(1) / (T(1) + magnitude(x));
    return x == T(0) ? T(0) : with_sign(T(2) * r * r * r, -x);
  }
};

}  // namespace nnk::NNK_ISA
