// The smooth activations. Each is a value and two derivatives at x, built on e = exp(-|...|) so that tails keep digits.
#pragma once

#include "math.h"

namespace nnk::NNK_ISA {

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

  NNK_HD T sigmoid() const { return positive ? r : e * r; }

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

  NNK_HD T value(T x) const { return Logistic<M>(x).sigmoid(); }
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

  NNK_HD T value(T x) const {
    if constexpr (M::exponential_is_cheap) {
      const T e = Exponential<M>(T(-2) * magnitude(x)).value();
      const T far = with_sign((T(1) - e) * reciprocal<M>(T(1) + e), x);
      const T square = x * x;
      const T near = x * madd(square, madd(square, T(2.0 / 15), T(-1.0 / 3)), T(1));
      return magnitude(x) < T(0.125) ? near : far;
    } else {
      const T m = expm1_of<M>(T(-2) * magnitude(x));
      return with_sign(divide<M>(m, T(2) + m), x);
    }
  }

  NNK_HD T d1(T x) const {
    const Exponential<M> tail(T(-2) * magnitude(x));
    return divide<M>(T(4) * tail.value(), square_of_one_plus(tail.value()));
  }

  NNK_HD T d2(T x) const { return T(-2) * value(x) * d1(x); }
};

template <class M>
struct tanhshrink {
  using T = typename M::T;
  NNK_HD tanhshrink(double, double) {}

  NNK_HD T value(T x) const {
    const T near = at_least(at_most(x, T(1.5)), T(-1.5));
    const T square = near * near;
    const T small = near * (square * polynomial<M::Table::tanhres>(square - T(1.125)));
    const T large = x - tanh<M>(0, 0).value(x);
    return magnitude(x) < T(1.5) ? small : large;
  }

  NNK_HD T d1(T x) const {
    const T m = expm1_of<M>(T(-2) * magnitude(x));
    const Exponential<M> tail(T(-2) * magnitude(x));
    const T square = divide<M>(m * m, square_of_one_plus(tail.value()));
    // Where tanh^2 nears 1, its complement has fewer roundings to square.
    return magnitude(x) < T(1) ? square : T(1) - tanh<M>(0, 0).d1(x);
  }

  NNK_HD T d2(T x) const { return T(2) * tanh<M>(0, 0).value(x) * tanh<M>(0, 0).d1(x); }
};

// x sigmoid(z(x)). `ArgumentOfX` gives z and z' with their rounding errors, and z''.
template <class M, class ArgumentOfX>
struct Gate {
  using T = typename M::T;
  ArgumentOfX argument;

  // Beyond `far` the result no longer depends on |x|, but infinity would meet zero.
  static constexpr T far = T(1e5);

  NNK_HD T value(T x) const {
    const T near = at_least(at_most(x, far), -far);
    const auto z = argument.z(near);
    const Logistic<M> s(z.hi, z.lo);
    const T below = s.tail.times(near * s.r);
    return s.positive ? x * s.r : below;
  }

  NNK_HD T d1(T x) const {
    x = at_least(at_most(x, far), -far);
    const auto z = argument.z(x);
    const Logistic<M> s(z.hi, z.lo);
    // Below 0: s (1 + w (1 - s)), w = x z', is e r^2 (1 + w + e), whose root is where the exact 1 + w meets -e.
    const auto dz = argument.dz(x);
    const T below = s.tail.times(divide<M>(argument.bracket(x, dz, s.e, s.tail.lost()), square_of_one_plus(s.e)));
    const T above = s.r * madd(x * leading(dz) * s.e, s.r, T(1));
    return s.positive ? above : below;
  }

  NNK_HD T d2(T x) const {
    x = at_least(at_most(x, far), -far);
    const auto z = argument.z(x);
    const Logistic<M> s(z.hi, z.lo);
    const T dz = leading(argument.dz(x));
    return s.slope(T(2) * dz + x * argument.ddz(x)) + s.curvature(x * dz * dz);
  }

 private:
  static NNK_HD T leading(T dz) { return dz; }
  static NNK_HD T leading(Pair<T> dz) { return dz.hi; }
};

template <class M>
struct Argument {
  using T = typename M::T;

  // 1 + x z' + e. Where the large terms cancel they do so exactly, and leave what rounding took from each.
  static NNK_HD T bracket(T x, Pair<T> dz, T e, T e_lost) {
    const Pair<T> w = multiply<M>(x, dz);
    if constexpr (!M::precise) return (T(1) + w.hi) + e;
    return ((T(1) + w.hi) + e) + (w.lo + e_lost);
  }
};

template <class M>
struct SameArgument {
  using T = typename M::T;
  NNK_HD Pair<T, Exact> z(T x) const { return {x, {}}; }
  NNK_HD T dz(T) const { return T(1); }
  NNK_HD T ddz(T) const { return T(0); }
  NNK_HD T bracket(T x, T, T e, T) const { return (T(1) + x) + e; }
};

template <class M>
struct ScaledArgument : Argument<M> {
  using T = typename M::T;
  Pair<T> beta;
  explicit NNK_HD ScaledArgument(Pair<T> beta) : beta(beta) {}

  NNK_HD Pair<T> z(T x) const { return multiply<M>(x, beta); }
  NNK_HD Pair<T> dz(T) const { return beta; }
  NNK_HD T ddz(T) const { return T(0); }
};

// z = x (c1 + c2 x^2), which makes x sigmoid(z) the tanh approximation of GELU.
template <class M>
struct CubicArgument : Argument<M> {
  using T = typename M::T;
  static constexpr double c1_hi = 1.5957691216057308, c1_lo = -9.96930880911092e-17;
  static constexpr double c2_hi = 0.07135481627260025, c2_lo = -6.175149918155315e-19;
  static constexpr double c2_times_3_hi = 0.21406444881780073, c2_times_3_lo = 1.2025242832367862e-17;

  // z(+-30) is far beyond what exp tells from 0, and z must not overflow.
  static NNK_HD T bounded(T x) { return at_least(at_most(x, T(30)), T(-30)); }

  // c1 + c x^2, x being bounded.
  static NNK_HD Pair<T> even(T x, Pair<T> c) {
    const T square = x * x;
    const Pair<T> c1 = constant<M>(c1_hi, c1_lo);
    if constexpr (!M::precise) return {madd(c.hi, square, c1.hi), T(0)};
    // Knuth's two-sum with a product that is never rounded; the errors of x^2 and of the constants join its own.
    const T sum = madd(c.hi, square, c1.hi), part = sum - c1.hi;
    const T lost = product_error(c.hi, square, part) + (c1.hi - (sum - part));
    return {sum, lost + madd(c.hi, product_error(x, x, square), madd(c.lo, square, c1.lo))};
  }

  NNK_HD Pair<T> z(T x) const {
    x = bounded(x);
    return multiply<M>(x, even(x, constant<M>(c2_hi, c2_lo)));
  }

  NNK_HD Pair<T> dz(T x) const { return even(bounded(x), constant<M>(c2_times_3_hi, c2_times_3_lo)); }

  NNK_HD T ddz(T x) const { return T(6 * c2_hi) * bounded(x); }
};

template <class M>
struct silu : Gate<M, SameArgument<M>> {
  NNK_HD silu(double, double) {}
};

template <class M>
struct swish : Gate<M, ScaledArgument<M>> {
  using T = typename M::T;
  NNK_HD swish(double beta, double) : Gate<M, ScaledArgument<M>>{ScaledArgument<M>({T(beta), T(0)})} {}
};

template <class M>
struct gelu_sigmoid : Gate<M, ScaledArgument<M>> {
  NNK_HD gelu_sigmoid(double, double) : Gate<M, ScaledArgument<M>>{ScaledArgument<M>(constant<M>(1.702))} {}
};

template <class M>
struct gelu_tanh : Gate<M, CubicArgument<M>> {
  NNK_HD gelu_tanh(double, double) {}
};

// x Phi(x) through Phi(-a) = R(a) exp(-a^2/2), a = |x|, R = t P((a - k) t), t = 1 / (a + k), or a polynomial in a near 0
// where that quotient's roundings would show. The derivative has one of its own around its root, which it keeps.
template <class M>
struct gelu {
  using T = typename M::T;
  static constexpr double inv_sqrt_2pi = 0.39894228040143267794;
  NNK_HD gelu(double, double) {}

  struct Normal {
    T a;
    Exponential<M> tail;

    // At 15 (double: 40) the density is 0 and the polynomial's range ends.
    static NNK_HD T bounded(T x) { return at_most(magnitude(x), T(sizeof(T) == 8 ? 40 : 15)); }
    static NNK_HD T square_lost(T a) { return M::precise ? T(-0.5) * product_error(a, a, a * a) : T(0); }

    explicit NNK_HD Normal(T x) : a(bounded(x)), tail(T(-0.5) * (a * a), square_lost(a)) {}

    NNK_HD T mills() const {
      constexpr T k = M::Table::mills_k;
      const T t = reciprocal<M>(a + k);
      const T far = t * polynomial<M::Table::mills>((a - k) * t);
      if constexpr (M::precise) {
        const T near = polynomial<M::Table::near>(madd(T(2.0 / 3), at_most(a, T(3)), T(-1)));
        return a < T(3) ? near : far;
      } else {
        return far;
      }
    }
  };

  // max(x, 0) - a Phi(-a)
  NNK_HD T value(T x) const {
    const Normal normal(x);
    return (x < T(0) ? T(0) : x) - normal.tail.times(normal.a * normal.mills());
  }

  NNK_HD T d1(T x) const {
    const Normal normal(x);
    const T below = normal.tail.times(madd(T(-inv_sqrt_2pi), normal.a, normal.mills()));
    const T outside = x < T(0) ? below : T(1) - below;
    if constexpr (M::precise) {
      const T near = at_least(at_most(x, T(1)), T(-2));
      const T from_root = (near - M::Table::gelu_root_hi) - M::Table::gelu_root_lo;
      const T inside = from_root * polynomial<M::Table::gelu_d1>(near + T(0.625));
      return (x > T(-1.75)) & (x < T(0.5)) ? inside : outside;
    } else {
      return outside;
    }
  }

  NNK_HD T d2(T x) const {
    const Normal normal(x);
    return normal.tail.times(T(inv_sqrt_2pi) * madd(-normal.a, normal.a, T(2)));
  }
};

// x N/D: with e = exp(x), N = e (2 + e) and D = N + 2, which is all that 16 bits need. Precisely only below 0; above,
// e = exp(-x), N = 1 + 2e and D = N + 2e^2.
template <class M>
struct mish {
  using T = typename M::T;
  NNK_HD mish(double, double) {}

  static NNK_HD T bounded(T x) { return at_least(at_most(x, T(1e4)), T(-1e4)); }

  // exp(x), up to where N/D is 1 and D^2 does not overflow.
  static NNK_HD T exponential(T x) { return Exponential<M>(at_most(x, T(20))).value(); }

  NNK_HD T value(T x) const {
    if constexpr (!M::precise) {
      const T e = exponential(x), n = e * (T(2) + e);
      return at_least(x, T(-1e4)) * (n * reciprocal<M>(n + T(2)));
    }
    const Exponential<M> tail(negative_magnitude(x));
    const T e = tail.value();
    const bool negative = x < T(0);
    const T n = negative ? T(2) + e : madd(T(2), e, T(1));
    const T d = negative ? madd(e, n, T(2)) : madd(T(2) * e, e, n);
    const T ratio = n * reciprocal<M>(d);
    const T below = tail.times(bounded(x) * ratio);
    return negative ? below : x * ratio;
  }

  NNK_HD T d1(T x) const {
    x = bounded(x);
    if constexpr (!M::precise) {
      const T e = exponential(x), n = e * (T(2) + e), r = reciprocal<M>(n + T(2));
      return r * madd(T(4) * x * madd(e, e, e), r, n);
    }
    const Exponential<M> tail(negative_magnitude(x));
    const T e = tail.value();
    const bool negative = x < T(0);
    const T n = negative ? T(2) + e : madd(T(2), e, T(1));
    const T d = negative ? madd(e, n, T(2)) : madd(T(2) * e, e, n);
    // Below 0 the numerator n d + 4 x (1 + e), multiplied out: 4 (1 + x), which cancels, is exact.
    const T factor = madd(e, e, T(4) * e) + madd(T(4), x, T(6)), e_lost = tail.lost();
    const T low = madd(e, factor, T(4) * (T(1) + x)) + e_lost * (factor + T(4) * e);
    const T high = madd(n, d, T(4) * x * e * e * (T(1) + e));
    // What rounding took from d, which its square doubles.
    const T lost = negative ? madd(e, n, T(2) - d) + (n + e) * e_lost : T(0);
    const T ratio = divide<M>(negative ? low : high, madd(d, d, T(2) * d * lost));
    const T below = tail.times(ratio);
    return negative ? below : ratio;
  }

  NNK_HD T d2(T x) const {
    x = bounded(x);
    const Exponential<M> tail(negative_magnitude(x));
    const T e = tail.value();
    const bool negative = x < T(0);
    const T d = negative ? madd(e, T(2) + e, T(2)) : madd(T(2) * e, T(1) + e, T(1));
    const T r = reciprocal<M>(d), r2 = r * r, p = T(1) + e;
    const T bend = negative ? T(4) * (T(1) + T(2) * e) * r2 - T(16) * e * p * p * r2 * r
                            : T(4) * (T(2) + e) * r2 - T(16) * p * p * r2 * r;
    const T sum = madd(x, bend, T(8) * p * r2);
    return tail.times(negative ? sum : sum * e);
  }
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
    const T s = Logistic<M>(z.hi, z.lo).sigmoid();
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

  NNK_HD T d1(T x) const { return Logistic<M>(-x).sigmoid(); }
  NNK_HD T d2(T x) const { return Logistic<M>(x).slope(T(-1)); }
};

// above x for x > 0, and below it below expm1(x inverse_width). Serves elu, celu and selu.
template <class M>
struct ExponentialUnit {
  using T = typename M::T;
  T above, below;
  Pair<T> inverse_width;

  NNK_HD T value(T x) const {
    const T m = below * expm1_of<M>(inverse_width.hi * at_most(x, T(0)));
    return x > T(0) ? above * x : m;
  }

  NNK_HD T d1(T x) const {
    const T slope = exponential(x).times(below * inverse_width.hi);
    return x > T(0) ? above : slope;
  }

  NNK_HD T d2(T x) const {
    const T bend = exponential(x).times(below * inverse_width.hi * inverse_width.hi);
    return x > T(0) ? T(0) : bend;
  }

 private:
  NNK_HD Exponential<M> exponential(T x) const {
    const Pair<T> z = multiply<M>(at_most(x, T(0)), inverse_width);
    return Exponential<M>(z.hi, z.hi > -Float<T>::far ? z.lo : T(0));
  }
};

template <class M>
struct elu : ExponentialUnit<M> {
  using T = typename M::T;
  NNK_HD elu(double alpha, double) : ExponentialUnit<M>{T(1), T(alpha), {T(1), T(0)}} {}
};

template <class M>
struct celu : ExponentialUnit<M> {
  using T = typename M::T;
  NNK_HD celu(double alpha, double) : ExponentialUnit<M>{T(1), T(alpha), inverse(T(alpha))} {}

  static NNK_HD Pair<T> inverse(T alpha) {
    const T hi = T(1) / alpha;
    return {hi, -product_error(hi, alpha, T(1)) / alpha};
  }
};

template <class M>
struct selu : ExponentialUnit<M> {
  using T = typename M::T;
  static constexpr double alpha = 1.6732632423543772848, scale = 1.0507009873554804934;
  NNK_HD selu(double, double) : ExponentialUnit<M>{T(scale), T(scale * alpha), {T(1), T(0)}} {}
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
