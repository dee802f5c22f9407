// The activations made of straight (or squared) pieces. Comparisons are written so that NaN passes, as in PyTorch.
#pragma once

#include "math.h"

namespace nnk::NNK_ISA {

// Where such a derivative is 0 the gradient is 0 whatever comes from above, also for infinity and NaN.
struct Masking {};

template <class M>
struct Straight {
  NNK_HD typename M::T d2(typename M::T) const { return 0; }
};

template <class M>
struct Mask : Straight<M>, Masking {};

template <class M>
struct identity : Straight<M> {
  using T = typename M::T;
  NNK_HD identity(double, double) {}

  NNK_HD T value(T x) const { return x; }
  NNK_HD T d1(T) const { return T(1); }
};

template <class M>
struct relu : Mask<M> {
  using T = typename M::T;
  NNK_HD relu(double, double) {}

  NNK_HD T value(T x) const { return x < T(0) ? T(0) : x; }
  NNK_HD T d1(T x) const { return x <= T(0) ? T(0) : T(1); }
};

template <class M>
struct hardtanh : Mask<M> {
  using T = typename M::T;
  T low, high;
  NNK_HD hardtanh(double low, double high) : low(T(low)), high(T(high)) {}

  NNK_HD T value(T x) const { return at_most(at_least(x, low), high); }
  NNK_HD T d1(T x) const { return (x <= low) | (x >= high) ? T(0) : T(1); }
};

template <class M>
struct relu6 : hardtanh<M> {
  NNK_HD relu6(double, double) : hardtanh<M>(0, 6) {}
};

template <class M>
struct relu_squared : Masking {
  using T = typename M::T;
  NNK_HD relu_squared(double, double) {}

  NNK_HD T value(T x) const { return at_least(x, T(0)) * at_least(x, T(0)); }
  NNK_HD T d1(T x) const { return T(2) * at_least(x, T(0)); }
  NNK_HD T d2(T x) const { return x > T(0) ? T(2) : T(0); }
};

template <class M>
struct leaky_relu : Straight<M> {
  using T = typename M::T;
  T slope;
  NNK_HD leaky_relu(double slope, double) : slope(T(slope)) {}

  NNK_HD T value(T x) const { return x > T(0) ? x : slope * x; }
  NNK_HD T d1(T x) const { return x > T(0) ? T(1) : slope; }
};

template <class M>
struct hardsigmoid : Mask<M> {
  using T = typename M::T;
  NNK_HD hardsigmoid(double, double) {}

  NNK_HD T value(T x) const { return at_most(at_least(x + T(3), T(0)), T(6)) * T(1.0 / 6); }
  NNK_HD T d1(T x) const { return (x > T(-3)) & (x < T(3)) ? T(1.0 / 6) : T(0); }
};

template <class M>
struct hardswish : Masking {
  using T = typename M::T;
  NNK_HD hardswish(double, double) {}

  NNK_HD T value(T x) const {
    const T middle = x * ((x + T(3)) * T(1.0 / 6));
    return x <= T(-3) ? T(0) : x >= T(3) ? x : middle;
  }
  NNK_HD T d1(T x) const {
    const T middle = (x + T(1.5)) * T(1.0 / 3);  // in this order exact near its root
    return x <= T(-3) ? T(0) : x < T(3) ? middle : T(1);
  }
  NNK_HD T d2(T x) const { return (x > T(-3)) & (x < T(3)) ? T(1.0 / 3) : T(0); }
};

template <class M>
struct threshold : Mask<M> {
  using T = typename M::T;
  T limit, replacement;
  NNK_HD threshold(double limit, double replacement) : limit(T(limit)), replacement(T(replacement)) {}

  NNK_HD T value(T x) const { return x <= limit ? replacement : x; }
  NNK_HD T d1(T x) const { return x <= limit ? T(0) : T(1); }
};

template <class M>
struct thresholded_relu : threshold<M> {
  NNK_HD thresholded_relu(double theta, double) : threshold<M>(theta, 0) {}
};

template <class M>
struct hardshrink : Mask<M> {
  using T = typename M::T;
  T edge;
  NNK_HD hardshrink(double edge, double) : edge(T(edge)) {}

  NNK_HD bool inside(T x) const { return (x >= -edge) & (x <= edge); }
  NNK_HD T value(T x) const { return inside(x) ? T(0) : x; }
  NNK_HD T d1(T x) const { return inside(x) ? T(0) : T(1); }
};

template <class M>
struct softshrink : hardshrink<M> {
  using T = typename M::T;
  NNK_HD softshrink(double edge, double) : hardshrink<M>(edge, 0) {}

  NNK_HD T value(T x) const {
    const T edge = with_sign(this->edge, x);
    return this->inside(x) ? with_sign(T(0), x) : x - edge;
  }
};

template <class M>
struct hardmish : Masking {
  using T = typename M::T;
  NNK_HD hardmish(double, double) {}

  NNK_HD T value(T x) const {
    const T middle = x * ((x + T(2)) * T(0.5));
    return x <= T(-2) ? T(0) : x < T(0) ? middle : x;
  }
  NNK_HD T d1(T x) const { return x <= T(-2) ? T(0) : x < T(0) ? x + T(1) : T(1); }
  NNK_HD T d2(T x) const { return (x > T(-2)) & (x < T(0)) ? T(1) : T(0); }
};

template <class M>
struct starrelu : Masking {
  using T = typename M::T;
  T scale, bias;
  NNK_HD starrelu(double scale, double bias) : scale(T(scale)), bias(T(bias)) {}

  NNK_HD T value(T x) const {
    const T r = at_least(x, T(0)), scaled = scale * r, sum = madd_once(scaled, r, bias);
    if constexpr (!M::precise) return sum;
    // Around its root the sum is no larger than what rounding took from the product.
    return magnitude(sum) < magnitude(bias) ? madd(product_error(scale, r, scaled), r, sum) : sum;
  }
  NNK_HD T d1(T x) const { return T(2) * scale * at_least(x, T(0)); }
  NNK_HD T d2(T x) const { return x > T(0) ? T(2) * scale : T(0); }
};

}  // namespace nnk::NNK_ISA
