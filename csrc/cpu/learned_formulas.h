// The formulas of the activations with learned parameters.
//
// A formula has K numbers, the first Sums of which are parameters: `value(x, before)`, `gradient(grad, x, before)` for
// x, and `share<k>(grad, x)` for parameter k, `before` being what an earlier group of segments left. The shares of a
// parameter may lack a factor that all of them have: `learned_total` knows it. A formula for moderate arguments names
// the one for all others `Whole`, and tells with `suffices` where it will do. One that is done before memory is is
// `light`.
#pragma once

#include <cmath>
#include <utility>

#include "../gates.h"
#include "../piecewise.h"
#include "learned.h"

namespace nnk::NNK_ISA {

template <int... k>
using Indices = std::integer_sequence<int, k...>;
template <int count>
using UpTo = std::make_integer_sequence<int, count>;

// x if x > 0 else weight x.
template <class M>
struct Prelu {
  using T = typename M::T;
  static constexpr int K = 1, Sums = 1;
  static constexpr bool light = true;
  T weight;
  explicit NNK_HD Prelu(T weight) : weight(weight) {}

  NNK_HD T value(T x, T) const { return x > T(0) ? x : weight * x; }
  NNK_HD T gradient(T grad, T x, T) const { return x > T(0) ? grad : weight * grad; }
  template <int>
  NNK_HD T share(T grad, T x) const {
    const T product = grad * x;
    return x > T(0) ? T(0) : product;
  }
};

// x sigmoid(beta x).
template <class M>
struct Swish {
  using T = typename M::T;
  static constexpr int K = 1, Sums = 1;
  static constexpr bool light = false;
  Gate<M, ScaledArgument<M>> gate;
  explicit NNK_HD Swish(T beta) : gate{ScaledArgument<M>({beta, T(0)})} {}

  NNK_HD T value(T x, T) const { return gate.value(x); }
  NNK_HD T gradient(T grad, T x, T) const { return grad * gate.d1(x); }

  // x^2 sigmoid'(beta x). x e^-|z| stays held up by half of the exponential's scale until x has entered twice.
  template <int>
  NNK_HD T share(T grad, T x) const {
    x = gate.argument.bounded(x);
    const auto z = gate.argument.z(x);
    const Logistic<M> s(z.hi, z.lo);
    const T ratio = divide<M>(x, square_of_one_plus(s.e));
    if constexpr (!M::precise) return grad * (s.tail.times(ratio) * x);
    constexpr T unit = Float<T>::subnormal_unit, half = sizeof(T) == 4 ? T(0x1p-32) : T(0x1p-256);
    const T high = madd(ratio, s.tail.reduced.tail, ratio) * s.tail.reduced.scale;
    const bool large = magnitude(x) > T(1) / half;
    return grad * (high * (large ? unit : half) * x * (large ? T(1) : half));
  }
};

// G of the segments, slopes first; the first group brings max(0, x), the others add to what is there. The share of an
// offset lacks its slope.
template <class M, int G, bool First>
struct Apl {
  using T = typename M::T;
  static constexpr int K = 2 * G, Sums = K;
  static constexpr bool light = false;
  T p[K];
  template <class... Parameters>
  explicit NNK_HD Apl(Parameters... p) : p{p...} {}

  NNK_HD T value(T x, T before) const { return add(UpTo<G>(), x, First ? at_least(x, T(0)) : before); }
  NNK_HD T gradient(T grad, T x, T before) const {
    return subtract(UpTo<G>(), grad, x, First ? (x <= T(0) ? T(0) : grad) : before);
  }
  template <int k>
  NNK_HD T share(T grad, T x) const {
    const T distance = p[G + k % G] - x, passed = distance <= T(0) ? T(0) : grad;
    return k < G ? passed * at_least(distance, T(0)) : passed;
  }

 private:
  template <int... s>
  NNK_HD T add(Indices<s...>, T x, T y) const {
    ((y = madd(p[s], at_least(p[G + s] - x, T(0)), y)), ...);
    return y;
  }
  template <int... s>
  NNK_HD T subtract(Indices<s...>, T grad, T x, T sum) const {
    ((sum = madd(-p[s], share<G + s>(grad, x), sum)), ...);
    return sum;
  }
};

// alpha_p x^2 + beta x above 0, alpha_n (e^min(x, eps) - 1 - x) + beta x else, for alpha_p = softplus(p) and alpha_n =
// beta + softplus(n): far below 0 that is alpha_n (e^x - 1) - softplus(n) x, in which nothing cancels. Shares lack the
// derivative of softplus.
template <class M>
struct Xielu {
  using T = typename M::T;
  static constexpr int K = 4, Sums = 2;
  static constexpr bool light = false;
  T alpha_p, tail, alpha_n, beta, eps;
  explicit NNK_HD Xielu(T p, T n, T beta, T eps)
      : alpha_p(softplus<M>(1, 20).value(p)),
        tail(softplus<M>(1, 20).value(n)),
        alpha_n(beta + tail),
        beta(beta),
        eps(eps) {}

  NNK_HD T value(T x, T) const {
    const Below below(x, eps);
    const T near = madd(alpha_n, below.gap, beta * below.x), far = madd(-tail, below.x, alpha_n * below.expm1);
    return x > T(0) ? x * madd(alpha_p, x, beta) : below.x > T(-1) ? near : far;
  }

  NNK_HD T gradient(T grad, T x, T) const {
    const Below below(x, eps);
    const T e = below.x > eps ? T(0) : below.x == eps ? T(0.5) * below.e : below.e;  // of a minimum, as torch has it
    const T near = madd(alpha_n, below.expm1, beta), far = madd(alpha_n, e, -tail);
    const T slope = (below.x > T(-1)) & (below.x < eps) ? near : far;
    return grad * (x > T(0) ? madd(T(2) * alpha_p, x, beta) : slope);
  }

  template <int k>
  NNK_HD T share(T grad, T x) const {
    const T above = grad * x * x, below = grad * Below(x, eps).gap;
    return (x > T(0)) == (k == 0) ? (k == 0 ? above : below) : T(0);
  }

 private:
  // With x held at most 0 and m = min(x, eps): e^m, e^m - 1, and e^m - 1 - x.
  struct Below {
    T x, e, expm1, gap;

    NNK_HD Below(T given, T eps) : x(given > T(0) ? T(0) : given) {
      const T m = at_most(x, eps);
      const Reduced<M, 0> reduced(at_least(m, T(sizeof(T) == 8 ? -700 : -87)), Exact());
      e = madd(reduced.scale, reduced.tail, reduced.scale);
      expm1 = madd(reduced.scale, reduced.tail, reduced.scale - T(1));
      const T far = madd(reduced.scale, reduced.tail, (reduced.scale - T(1)) - m);
      const T held = at_least(m, T(-0.34)), near = held * held * polynomial<M::Table::expm1>(held);
      gap = (m > T(-0.34) ? near : far) + (x > eps ? eps - x : T(0));
    }
  };
};

// sin(z) and cos(z) of z = alpha x, but for a sign that may be turned in both. Whole: for any z; otherwise for those of
// so few turns of pi that 20 bits count them.
template <class M, bool Whole>
struct Turn {
  using T = typename M::T;
  static constexpr T limit = T(3e6);
  T sine, cosine;

  NNK_HD Turn(T alpha, T x) {
    const double z = double(alpha) * double(x);
    const double lo = sizeof(T) == 8 ? product_error(double(alpha), double(x), z) : 0;  // of floats it is exact
    if constexpr (Whole) {
      const double s = std::sin(z), c = std::cos(z), more = std::sin(lo), less = std::cos(lo);  // lo may be turns, too
      sine = T(madd(s, less, c * more)), cosine = T(madd(c, less, -s * more));
    } else {
      // pi in three parts, of which two have 33 bits: their products with the turns are exact.
      constexpr double pi[] = {0x1.921fb544p+1, 0x1.0b4611a6p-33, 0x1.3198a2e037073p-68};
      constexpr double half_pi = 1.5707963267948966, half_pi_lo = 6.123233995736766e-17;
      const double turns = madd(z, 0.31830988618379067, Float<double>::magic) - Float<double>::magic;
      const double angle = madd(turns, -pi[2], madd(turns, -pi[1], madd(turns, -pi[0], z)) + lo);
      sine = sine_of(T(angle)), cosine = sine_of(T((half_pi - magnitude(angle)) + half_pi_lo));
    }
  }

 private:
  static NNK_HD T sine_of(T angle) {
    const T square = angle * angle;
    return madd(angle * square, polynomial<M::Table::sine>(square), angle);
  }
};

// x + sin(alpha x)^2 / (beta + guard). What depends on beta alone is lacking in the shares.
template <class M, bool All = false>
struct SnakeBeta {
  using T = typename M::T;
  using Whole = SnakeBeta<M, true>;
  using Turn = nnk::NNK_ISA::Turn<M, All>;
  static constexpr int K = 2, Sums = 2;
  static constexpr bool light = false;
  T alpha, inverse;
  explicit NNK_HD SnakeBeta(T alpha, T beta) : alpha(alpha), inverse(T(1) / (beta + T(kSnakeGuard))) {}

  // Told where the first number, alpha, of each element of x is.
  template <bool Columns>
  static bool suffices(const T* alpha, const T* x, int64_t count) {
    int beyond = 0;
#pragma omp simd reduction(| : beyond)
    for (int64_t i = 0; i < count; ++i) beyond |= magnitude(alpha[Columns ? i : 0] * x[i]) > Turn::limit;
    return !beyond;
  }

  NNK_HD T value(T x, T) const {
    const T sine = Turn(alpha, x).sine;
    return madd(sine * sine, inverse, x);
  }

  NNK_HD T gradient(T grad, T x, T) const {
    const Turn turn(alpha, x);
    return grad * madd(T(2) * alpha * inverse, turn.sine * turn.cosine, T(1));
  }

  template <int k>
  NNK_HD T share(T grad, T x) const {
    const Turn turn(alpha, x);
    return grad * (k == 0 ? T(2) * x * (turn.sine * turn.cosine) : turn.sine * turn.sine);
  }
};

// The same of an alpha that is beta too.
template <class M, bool All = false>
struct Snake : SnakeBeta<M, All> {
  using T = typename M::T;
  using Whole = Snake<M, true>;
  static constexpr int K = 1, Sums = 1;
  explicit NNK_HD Snake(T alpha) : SnakeBeta<M, All>(alpha, alpha) {}

  template <int>
  NNK_HD T share(T grad, T x) const {
    const Turn<M, All> turn(this->alpha, x);
    return grad * turn.sine * madd(T(2) * x, turn.cosine, -turn.sine * this->inverse);
  }
};

// scale max(0, x)^2 + bias.
template <class M>
struct StarReLU {
  using T = typename M::T;
  static constexpr int K = 2, Sums = 2;
  static constexpr bool light = true;
  starrelu<M> formula;
  explicit NNK_HD StarReLU(T scale, T bias) : formula(scale, bias) {}

  NNK_HD T value(T x, T) const { return formula.value(x); }
  NNK_HD T gradient(T grad, T x, T) const {
    const T product = grad * formula.d1(x);
    return x <= T(0) ? T(0) : product;
  }
  template <int k>
  NNK_HD T share(T grad, T x) const {
    const T product = grad * x * x;
    return k == 0 ? (x <= T(0) ? T(0) : product) : grad;
  }
};

// gamma tanh(alpha x) + beta. The shares of alpha lack gamma.
template <class M>
struct DynamicTanh {
  using T = typename M::T;
  static constexpr int K = 3, Sums = 3;
  static constexpr bool light = false;
  T alpha, gamma, beta;
  explicit NNK_HD DynamicTanh(T alpha, T gamma, T beta) : alpha(alpha), gamma(gamma), beta(beta) {}

  NNK_HD T value(T x, T) const { return madd(gamma, tanh<M>(0, 0).value(alpha * x), beta); }
  NNK_HD T gradient(T grad, T x, T) const { return slope(x, grad * gamma * alpha); }
  template <int k>
  NNK_HD T share(T grad, T x) const {
    if constexpr (k == 0) return slope(x, grad * (magnitude(alpha * x) < Float<T>::far ? x : T(0)));
    return k == 1 ? grad * tanh<M>(0, 0).value(alpha * x) : grad;
  }

 private:
  // v tanh'(alpha x)
  NNK_HD T slope(T x, T v) const {
    const Pair<T> z = multiply<M>(x, {alpha, T(0)});
    const T lo = magnitude(z.hi) < Float<T>::far ? z.lo : T(0);  // where z is infinite there is none
    return Logistic<M>(T(2) * z.hi, T(2) * lo).slope(T(4) * v);
  }
};

}  // namespace nnk::NNK_ISA
