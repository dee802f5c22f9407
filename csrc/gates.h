// The smooth gates: x times something that goes from 0 to 1.
#pragma once

#include "smooth.h"

namespace nnk::NNK_ISA {

// x sigmoid(z(x)). `ArgumentOfX` gives z and z' with their rounding errors, z'', and the bounds beyond which |x| no
// longer matters: infinity must not meet zero.
template <class M, class ArgumentOfX>
struct Gate {
  using T = typename M::T;
  ArgumentOfX argument;

  NNK_HD T value(T x) const {
    x = argument.closed(x);
    const auto z = argument.z(x);
    return Odds<M>(z.hi, z.lo).times(x);
  }

  NNK_HD T d1(T x) const {
    x = argument.bounded(x);
    const auto z = argument.z(x);
    const Logistic<M> s(z.hi, z.lo);
    const auto dz = argument.dz(x);
    // s (1 + w (1 - s)), w = x z', over (1 + e)^2: above 0 it is 1 + e (1 + w), below 0 e (1 + w + e), whose root is
    // where the exact 1 + w meets -e.
    const T above = madd(s.e, madd(x, leading(dz), T(1)), T(1));
    const T below = argument.bracket(x, dz, s.e, s.tail.lost());
    const T ratio = divide<M>(s.positive ? above : below, square_of_one_plus(s.e));
    const T tail = s.tail.times(ratio);
    return s.positive ? ratio : tail;
  }

  NNK_HD T d2(T x) const {
    x = argument.bounded(x);
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
  static constexpr T far = T(1e5);

  // Where the derivatives no longer change.
  static NNK_HD T bounded(T x) { return at_least(at_most(x, far), -far); }
  // Where the gate is closed.
  static NNK_HD T closed(T x) { return at_least(x, -far); }

  // 1 + x z' + e. Where the large terms cancel they do so exactly, and leave what rounding took from each.
  static NNK_HD T bracket(T x, Pair<T> dz, T e, T e_lost) {
    const Pair<T> w = multiply<M>(x, dz);
    if constexpr (!M::precise) return (T(1) + w.hi) + e;
    return ((T(1) + w.hi) + e) + (w.lo + e_lost);
  }
};

template <class M>
struct SameArgument : Argument<M> {
  using T = typename M::T;
  NNK_HD Pair<T, Exact> z(T x) const { return {x, {}}; }
  NNK_HD T dz(T) const { return T(1); }
  NNK_HD T ddz(T) const { return T(0); }
  NNK_HD T bracket(T x, T, T e, T) const { return (T(1) + x) + e; }
};

template <class M>
struct ScaledArgument : Argument<M> {
  using T = typename M::T;
  static constexpr T infinity = T(__builtin_inf());
  Pair<T> beta;
  T far;        // where |z| is
  T low, high;  // where the gate is closed

  explicit NNK_HD ScaledArgument(Pair<T> beta)
      : beta(beta),
        far(at_most(Argument<M>::far / magnitude(beta.hi), T(3e38))),
        low(beta.hi > T(0) ? -far : -infinity),
        high(beta.hi < T(0) ? far : infinity) {}

  NNK_HD T bounded(T x) const { return at_least(at_most(x, far), -far); }
  NNK_HD T closed(T x) const { return at_least(at_most(x, high), low); }

  NNK_HD Pair<T> z(T x) const { return multiply<M>(bounded(x), beta); }
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
  static NNK_HD T near(T x) { return at_least(at_most(x, T(30)), T(-30)); }

  // c1 + c x^2, x being near.
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
    x = near(x);
    return multiply<M>(x, even(x, constant<M>(c2_hi, c2_lo)));
  }

  NNK_HD Pair<T> dz(T x) const { return even(near(x), constant<M>(c2_times_3_hi, c2_times_3_lo)); }

  NNK_HD T ddz(T x) const { return T(6 * c2_hi) * near(x); }
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
  NNK_HD gelu_sigmoid(double, double)
      : Gate<M, ScaledArgument<M>>{ScaledArgument<M>(constant<M>(1.702, 4.263256414560601e-17))} {}
};

template <class M>
struct gelu_tanh : Gate<M, CubicArgument<M>> {
  NNK_HD gelu_tanh(double, double) {}
};

// x Phi(x) through Phi(-a) = R(a) exp(-a^2/2), a = |x|, R = t P((a - k) t), t = 1 / (a + k), or a polynomial in a near
// 0 where that quotient's roundings would show. The derivative has one of its own around its root, which it keeps.
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
        const T near = polynomial<M::Table::near>(madd(T(2.0 / 3), a, T(-1)));
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
      const T from_root = (x - M::Table::gelu_root_hi) - M::Table::gelu_root_lo;
      const T inside = from_root * polynomial<M::Table::gelu_d1>(x + T(0.625));
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

}  // namespace nnk::NNK_ISA
