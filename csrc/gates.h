// The smooth gates: x times something that goes from 0 to 1.
#pragma once

#include "gate_arguments.h"
#include "smooth.h"

namespace nnk::NNK_ISA {

// The derivative of x sigmoid(z(x)), e B / (1 + e)^2 with e = e^z, B = 1 + w + e and w = x z'. B has a root; there 1 +
// w = -e_r, and with w counted from it B is w + (e - e_r): both terms have the root, and the same sign, so that no
// digits are lost around it. Precisely only below 0; above, it is 1 minus itself at -z.
template <class M>
struct Slope {
  using T = typename M::T;

  bool reflected;
  T x;  // where z is as it enters here
  Growth<M> tail;
  T bracket;  // B, weighted

  template <class ArgumentOfX>
  NNK_HD Slope(const ArgumentOfX& argument, T given)
      : reflected(M::precise && !argument.is_below(given)),
        x(M::precise ? negative_magnitude(argument.open(given)) : argument.open(given)),
        tail(argument.from_root(x)),
        bracket(argument.add_w_from_root(x, tail.weighted)) {}

  NNK_HD T from(T below) const { return reflected ? T(1) - below : below; }
  NNK_HD T value() const { return from(tail.times(divide<M>(bracket, square_of_one_plus(tail.e)))); }
};

// x sigmoid(z(x)). `ArgumentOfX` gives z with its rounding error, z', z'', and the bounds beyond which |x| no longer
// matters: infinity must not meet zero.
template <class M, class ArgumentOfX>
struct Gate {
  using T = typename M::T;
  ArgumentOfX argument;

  // Whether value and derivative share a sigmoid: a subnormal one has digits enough for 16 bits as long as x is not far
  // larger than z.
  static constexpr bool shares = M::exponential_is_cheap && ArgumentOfX::outgrows;

  NNK_HD T value(T x) const {
    if constexpr (shares) return argument.closed(x) * sigmoid(x);
    x = argument.closed(x);
    const auto z = argument.z(x);
    return Odds<M>(z.hi, z.lo).times(x);
  }

  NNK_HD T d1(T x) const {
    if constexpr (shares) {
      const T s = sigmoid(x), held = argument.open(x);
      return s * madd(held * argument.dz(held), T(1) - s, T(1));
    }
    return Slope<M>(argument, x).value();
  }

  NNK_HD T d2(T x) const {
    x = argument.bounded(x);
    const auto z = argument.z(x);
    const Logistic<M> s(z.hi, z.lo);
    const T dz = argument.dz(x);
    return s.slope(T(2) * dz + x * argument.ddz(x)) + s.curvature(x * dz * dz);
  }

 private:
  NNK_HD T sigmoid(T x) const { return Odds<M>(argument.z(x).hi).sigmoid(); }
};

template <class M>
struct silu : Gate<M, SameArgument<M>> {
  using T = typename M::T;
  using Base = Gate<M, SameArgument<M>>;
  NNK_HD silu(double, double) {}

  NNK_HD T d1(T x) const {
    const T outside = Base::d1(x);
    if constexpr (!Base::shares) return outside;
    // Near the root the sum loses digits that a number of 16 bits shows: three terms of the Taylor series do not.
    const T d = x - M::Table::silu_root_hi;
    const T inside = d * madd(d, madd(d, T(0.0188748142237823134), T(0.1466487969969469)), T(0.217811705719800099));
    return magnitude(d) < T(1.0 / 32) ? inside : outside;
  }
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

// x Phi(x) through Phi(-a) = R(a) exp(-a^2/2), a = |x|, R = t P((a - k) t), t = 1 / (a + k), or for doubles near 0,
// where that quotient's roundings would show, a polynomial in a. The derivative has one of its own around its root.
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
    static NNK_HD T square_lost(T a) {
      return M::precise ? T(-0.5) * product_error(a, a, underflowing_product(a, a)) : T(0);
    }

    explicit NNK_HD Normal(T x) : a(bounded(x)), tail(T(-0.5) * underflowing_product(a, a), square_lost(a)) {}
    // For what is x or 1 less the tail, and at 10 no longer differs from those.
    static NNK_HD Normal below(T x) { return Normal(at_most(x, T(10))); }

    NNK_HD T mills() const {
      constexpr T k = M::Table::mills_k;
      const T t = reciprocal_of_sum<M>(a, k);
      const T far = t * polynomial<M::Table::mills>((a - k) * t);
      if constexpr (sizeof(T) == 8) {
        const T near = polynomial<M::Table::near>(madd(T(2.0 / 3), a, T(-1)));
        return a < T(3) ? near : far;
      } else {
        return far;
      }
    }
  };

  // |x|, up to where 16 bits have 0 alone.
  static NNK_HD T distance(T x) { return at_most(magnitude(x), T(14)); }
  static constexpr T unit = T(1.0 / (1 << 24));  // of the fits by a power of two, which else would be subnormal

  // max(x, 0) - a Phi(-a)
  NNK_HD T value(T x) const {
    if constexpr (M::exponential_is_cheap) {
      const T a = distance(x);
      return madd(a * flushed_power(polynomial<M::Table::gelu_tail>(a)), -unit, positive_part(x));
    }
    const Normal normal = Normal::below(x);
    return positive_part(x) - normal.tail.times(normal.a * normal.mills());
  }

  NNK_HD T d1(T x) const {
    if constexpr (M::exponential_is_cheap) {
      const T a = distance(x);
      const T below = (-M::Table::gelu_root_hi - a) * flushed_power(polynomial<M::Table::gelu_slope>(a)) * unit;
      return x < T(0) ? below : T(1) - below;
    }
    const Normal normal = Normal::below(x);
    const T below = normal.tail.times(madd(T(-inv_sqrt_2pi), normal.a, normal.mills()));
    const T outside = x < T(0) ? below : T(1) - below;
    if constexpr (M::precise) {
      const T from_root = (x - M::Table::gelu_root_hi) - M::Table::gelu_root_lo;
      const T inside = from_root * polynomial<M::Table::gelu_d1>(x + T(0.625));
      return (x > T(-1.75)) & (x < T(0.5)) ? inside : outside;
    } else {
      // 16 bits show the root's neighbourhood no nearer than 1e-4: three terms of the Taylor series do.
      const T d = x - T(-0.7517915246935645);
      const T inside = d * madd(d, madd(d, T(-0.018199676398671084), T(0.3882849829905521)), T(0.43149399231404695));
      return magnitude(d) < T(1.0 / 16) ? inside : outside;
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

  // 2^40 e^x, which is normal wherever x N/D is not 0; unit = 2^-40.
  static constexpr T unit = T(9.094947017729282e-13);
  static NNK_HD T lifted(T x) { return flushed_power(madd(at_most(x, T(20)), Float<T>::log2e, T(40))); }

  // exp(x), up to where N/D is 1 and D^2 does not overflow.
  static NNK_HD T exponential(T x) { return Exponential<M>(at_most(x, T(20))).value(); }

  NNK_HD T value(T x) const {
    if constexpr (M::exponential_is_cheap) {
      const T e = lifted(x), n = e * madd(e, unit, T(2));
      return at_least(x, T(-1e4)) * (n * reciprocal<M>(madd(n, unit, T(2))) * unit);
    } else if constexpr (!M::precise) {
      const T e = exponential(x), n = underflowing_product(e, T(2) + e);
      return underflowing_product(at_least(x, T(-1e4)), underflowing_product(n, reciprocal<M>(n + T(2))));
    }
    const T held = at_most(at_least(x, T(-1e4)), T(60));
    const Exponential<M> tail(negative_magnitude(held));
    const T e = tail.value();
    const bool negative = x < T(0);
    const T n = negative ? T(2) + e : madd(T(2), e, T(1));
    const T d = negative ? madd(e, n, T(2)) : madd(T(2) * e, e, n);
    const T ratio = n * reciprocal<M>(d);
    const T below = tail.times(underflowing_product(held, ratio));
    return negative ? below : underflowing_product(x, ratio);
  }

  // With e = e^x and D = e^2 + 2e + 2 it is e B/D^2, B = 4 (1 + x) + e (4x + 6) + 4e^2 + e^3. Around its root r, B is
  // counted from there: with d = x - r and E = e - e^r it is 4 (1 + e^r) d + E (e^2 + (4 + e^r) (e + e^r) + 4x + 6).
  // Above 0 it is 1 - (4 + 4e (1 - x) + e^2 (2 - 4x))/D^2.
  NNK_HD T d1(T x) const {
    if constexpr (M::exponential_is_cheap) {
      const T e = lifted(x), n = e * madd(e, unit, T(2)), r = reciprocal<M>(madd(n, unit, T(2)));
      return r * madd(T(4) * bounded(x) * madd(e, e * unit, e), r, n) * unit;
    } else if constexpr (!M::precise) {
      x = bounded(x);
      const T e = exponential(x), n = underflowing_product(e, T(2) + e), r = reciprocal<M>(n + T(2));
      return underflowing_product(r, madd(underflowing_product(T(4) * x, madd(e, e, e)), r, n));
    } else {
      using Table = typename M::Table;
      constexpr T root = Table::mish_root_hi, root_lo = Table::mish_root_lo;
      constexpr T e_r = Table::mish_root_e_hi, e_r_lo = Table::mish_root_e_lo;
      x = at_least(at_most(x, T(sizeof(T) == 8 ? 30 : 20)), Argument<M>::closing);
      const bool negative = x < T(0);
      const T from_root = x - root, small = difference_error(x, root, from_root) - root_lo;
      const Growth<M> tail(e_r, from_root, small + e_r_lo / e_r);
      const T e = tail.e, n = T(2) + e, d = madd(e, n, T(2));
      // What rounding took from d, and before from n, which the square doubles.
      const T lost = madd(e, e - (n - T(2)), madd(e, n, T(2) - d));
      const T factor = madd(e, e + (T(4) + e_r), madd(T(4), x, T(6) + e_r * (T(4) + e_r)));
      constexpr T unit = Growth<M>::unit, k = (T(4) + T(4) * e_r) * e_r * unit;
      constexpr T k_lo = sizeof(T) == 8 ? T(0) : T((4.0 + 4.0 * e_r) * e_r * unit - k);
      const T low =
          madd(k, from_root, madd(tail.weighted - e_r * unit * e_r_lo, factor, madd(k_lo, from_root, k * small)));
      const T high = madd(e, madd(e, madd(T(-4), x, T(2)), madd(T(-4), x, T(4))), T(4));
      const T ratio = divide<M>(negative ? low : high, madd(d, d, T(2) * d * lost));
      return negative ? tail.times(ratio) : T(1) - ratio;
    }
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
