// What the sigmoid of a gate is taken of: z(x) and its derivatives, and the bounds beyond which |x| no longer matters.
#pragma once

#include "exponentials.h"

namespace nnk::NNK_ISA {

template <class M>
struct Argument {
  using T = typename M::T;
  static constexpr T far = T(1e5);
  // A z beyond which the derivative is 1; where e^z is formed, its square is finite.
  static constexpr T large = T(M::precise ? 60 : 40);
  // Where x e^z is 0.
  static constexpr T closing = T(sizeof(T) == 8 ? -753.5 : -109);

  // Where the derivatives no longer change.
  static NNK_HD T bounded(T x) { return at_least(at_most(x, far), -far); }
  // Where the gate is closed.
  static NNK_HD T closed(T x) { return at_least(x, -far); }
};

// z is x, or a multiple of x whose derivatives are those of x sigmoid(x) at z.
template <class M>
struct LinearArgument : Argument<M> {
  using T = typename M::T;
  using Table = typename M::Table;

  // No 16-bit number is so near to the root that the low parts would show, but a product may be.
  template <class Lo>
  static constexpr bool near = M::precise || !__is_same(Lo, Exact);

  static constexpr T weight = Table::silu_root_e_hi * Growth<M>::unit;

  // z + lo - r: the difference, and what rounding and the root's low part leave of it.
  template <class Lo>
  static NNK_HD Pair<T> distance(T z, Lo lo) {
    const T d = z - Table::silu_root_hi;
    T small = plus(T(-Table::silu_root_lo), lo);
    if constexpr (M::precise) small = small + difference_error(z, Table::silu_root_hi, d);
    return {d, small};
  }

  // weight (z + lo - r) + y. What is small comes first.
  template <class Lo>
  static NNK_HD T add_distance(T z, Lo lo, T y) {
    const Pair<T> d = distance(z, lo);
    if constexpr (!near<Lo>) return madd(d.hi, weight, y);
    return madd(d.hi, weight, madd(M::precise ? d.lo - Table::silu_root_e_lo : d.lo, weight, y));
  }

  template <class Lo>
  static NNK_HD Growth<M> growth(T z, Lo lo) {
    constexpr T e_r = Table::silu_root_e_hi, e_r_lo = Table::silu_root_e_lo;
    const Pair<T> d = distance(z, lo);
    if constexpr (M::precise) return {e_r, d.hi, d.lo + e_r_lo / e_r};
    return {e_r, near<Lo> ? d.hi + d.lo : d.hi, Exact()};
  }
};

template <class M>
struct SameArgument : LinearArgument<M> {
  using T = typename M::T;
  static constexpr bool outgrows = true;  // |z| is at least |x|
  NNK_HD Pair<T, Exact> z(T x) const { return {x, {}}; }
  NNK_HD T dz(T) const { return T(1); }
  NNK_HD T ddz(T) const { return T(0); }

  static NNK_HD bool is_below(T x) { return x < T(0); }
  static NNK_HD T open(T x) { return at_least(at_most(x, Argument<M>::large), Argument<M>::closing); }
  NNK_HD T add_w_from_root(T x, T y) const { return this->add_distance(x, Exact(), y); }
  NNK_HD Growth<M> from_root(T x) const { return this->growth(x, Exact()); }
};

template <class M>
struct ScaledArgument : LinearArgument<M> {
  using T = typename M::T;
  static constexpr bool outgrows = false;
  static constexpr T infinity = T(__builtin_inf());
  Pair<T> beta, positive;
  T far;                  // where |z| is
  Interval<T> open_gate;  // on one side of which the gate is closed
  Interval<T> range;      // where the derivative changes

  explicit NNK_HD ScaledArgument(Pair<T> beta) : beta(beta), positive(beta) {
    const T one = T(1) / magnitude(beta.hi), most = T(3e38);  // where |z| is 1
    far = at_most(Argument<M>::far * one, most);
    open_gate = {beta.hi > T(0) ? -far : -infinity, beta.hi < T(0) ? far : infinity};
    const T closing = at_most(-Argument<M>::closing * one, most), opening = at_most(Argument<M>::large * one, most);
    const bool turned = beta.hi < T(0);
    range = turned ? Interval<T>{-opening, closing} : Interval<T>{-closing, opening};
    if (turned && M::precise) positive = {-beta.hi, -beta.lo};
  }

  NNK_HD T bounded(T x) const { return Interval<T>{-far, far}.hold(x); }
  NNK_HD T closed(T x) const { return open_gate.hold(x); }
  NNK_HD bool is_below(T x) const { return x * beta.hi < T(0); }
  NNK_HD T open(T x) const { return range.hold(x); }

  NNK_HD Pair<T> z(T x) const { return multiply<M>(bounded(x), beta); }
  NNK_HD T dz(T) const { return beta.hi; }
  NNK_HD T ddz(T) const { return T(0); }

  NNK_HD T add_w_from_root(T x, T y) const {
    const Pair<T> z = product(x);
    return this->add_distance(z.hi, z.lo, y);
  }

  NNK_HD Growth<M> from_root(T x) const {
    const Pair<T> z = product(x);
    return this->growth(z.hi, z.lo);
  }

 private:
  // With its error in every precision: the product may be as near to the root as any number. Precisely it is negative.
  NNK_HD Pair<T> product(T x) const {
    const T hi = underflowing_product(x, positive.hi);
    return {hi, madd(x, positive.lo, product_error(x, positive.hi, hi))};
  }
};

// z = x (c1 + c2 x^2), which makes x sigmoid(z) the tanh approximation of GELU.
template <class M>
struct CubicArgument : Argument<M> {
  using T = typename M::T;
  static constexpr bool outgrows = true;
  using Table = typename M::Table;
  static constexpr T weight = Table::gelu_tanh_root_e_hi * Growth<M>::unit;
  static constexpr double c1_hi = 1.5957691216057308, c1_lo = -9.96930880911092e-17;
  static constexpr double c2_hi = 0.07135481627260025, c2_lo = -6.175149918155315e-19;

  // z(+-30) is far beyond what exp tells from 0, and z must not overflow.
  static NNK_HD T near(T x) { return at_least(at_most(x, T(30)), T(-30)); }

  NNK_HD Pair<T> z(T x) const {
    x = near(x);
    const T square = underflowing_product(x, x);
    const Pair<T> c1 = constant<M>(c1_hi, c1_lo), c2 = constant<M>(c2_hi, c2_lo);
    if constexpr (!M::precise) return {underflowing_product(x, madd(c2.hi, square, c1.hi)), T(0)};
    // Knuth's two-sum with a product that is never rounded; the errors of x^2 and of the constants join its own.
    const T sum = madd(c2.hi, square, c1.hi), part = sum - c1.hi;
    const T lost = product_error(c2.hi, square, part) + (c1.hi - (sum - part));
    const T lo = lost + madd(c2.hi, product_error(x, x, square), madd(c2.lo, square, c1.lo));
    return multiply<M>(x, {sum, lo});
  }

  NNK_HD T dz(T x) const { return madd(T(3 * c2_hi), near(x) * near(x), T(c1_hi)); }
  NNK_HD T ddz(T x) const { return T(6 * c2_hi) * near(x); }

  static constexpr T closing = T(sizeof(T) == 8 ? -21.61 : -10.92);  // where x e^z is 0
  static NNK_HD bool is_below(T x) { return x < T(0); }
  static constexpr T opening = T(M::precise ? 8.5 : 7.2);  // where z is almost `large`
  static NNK_HD T open(T x) { return at_least(at_most(x, opening), closing); }

  // Weighted, w = d (c1 + 3 c2 q) from the root r, d = x - r and q = x^2 + x r + r^2.
  NNK_HD T add_w_from_root(T x, T y) const {
    constexpr T r = Table::gelu_tanh_root_hi, r_lo = Table::gelu_tanh_root_lo;
    constexpr T a0 = T((3 * c2_hi * r * r + c1_hi) * weight), a1 = T(3 * c2_hi * r * weight),
                a2 = T(3 * c2_hi * weight);
    const T k = madd(madd(a2, x, a1), x, a0);
    if constexpr (!M::precise) return madd(x - r, k, y);
    // r is a multiple of 2^-20, so that only an x between it and 0 leaves something of the difference.
    const T d = x - r, small = (x - (d + r)) - r_lo;
    return madd(d, k, madd(small, k, y - weight * Table::gelu_tanh_root_e_lo));
  }

  NNK_HD Growth<M> from_root(T x) const {
    const Pair<T> z = this->z(x);
    constexpr T root = Table::gelu_tanh_root_z_hi, root_lo = Table::gelu_tanh_root_z_lo;
    constexpr T e_r = Table::gelu_tanh_root_e_hi;
    const T d = z.hi - root;
    if constexpr (!M::precise) return {e_r, d, Exact()};
    return {e_r, d, difference_error(z.hi, root, d) + (z.lo + (Table::gelu_tanh_root_e_lo / e_r - root_lo))};
  }
};

}  // namespace nnk::NNK_ISA
