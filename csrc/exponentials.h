// Exponentials and logarithms to the precision of a policy of math.h, exact in their subnormal tails.
#pragma once

#include "math.h"

namespace nnk::NNK_ISA {

template <class T>
struct Float;

template <>
struct Float<float> {
  using Bits = int32_t;
  static constexpr int mantissa = 23, bias = 127, subnormal_shift = 64, tail_shift = 32;
  static constexpr float largest = 3.40282347e38f, half_ulp = 5.96046448e-8f;
  static constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  static constexpr float log2e = 1.44269504f, ln2 = 0.693147182f, ln2_hi = 0.693145752f, ln2_lo = 1.42860677e-6f;
  static constexpr float subnormal_unit = 5.42101086e-20f;  // 2^-64
  static constexpr float far = 126.0f;  // exp(-far) is far below the smallest subnormal, and its scale in range
  static constexpr int odds_shift = -66;
  static constexpr float odds_low = -40.0f, odds_high = 133.0f;
};

template <>
struct Float<double> {
  using Bits = int64_t;
  static constexpr int mantissa = 52, bias = 1023, subnormal_shift = 512, tail_shift = 66;
  static constexpr double largest = 1.7976931348623157e308, half_ulp = 1.1102230246251565e-16;
  static constexpr double magic = 6755399441055744.0;
  static constexpr double log2e = 1.4426950408889634, ln2 = 0.6931471805599453, ln2_hi = 0.69314718036912382,
                          ln2_lo = 1.9082149292705877e-10;
  static constexpr double subnormal_unit = 7.4583407312002070e-155;  // 2^-512
  static constexpr double far = 1000.0;
  static constexpr int odds_shift = -96;
  static constexpr double odds_low = -600.0, odds_high = 776.3;
};

// The lo of a number that needed no rounding. Adding a float 0 instead would cost an instruction, for -0's sake.
struct Exact {
  NNK_HD Exact operator-() const { return {}; }
};

NNK_HD float plus(float x, float lo) { return x + lo; }
NNK_HD double plus(double x, double lo) { return x + lo; }
template <class T>
NNK_HD T plus(T x, Exact) {
  return x;
}

// z + lo = n log(2) + r with |r| <= log(2)/2: tail = e^r - 1 and scale = 2^(n + shift), which has to be a normal number
// or 0.
template <class M, int shift = Float<typename M::T>::subnormal_shift>
struct Reduced {
  using T = typename M::T;
  using F = Float<T>;
  using Bits = typename F::Bits;

  T tail, scale;

  template <class Lo>
  explicit NNK_HD Reduced(T z, Lo lo, Bits shift_more = 0) {
    const T shifted = madd(z, F::log2e, F::magic);
    const Bits n = bits_of<Bits>(shifted) - bits_of<Bits>(F::magic);
    const T whole = shifted - F::magic;
    T r;
    if constexpr (M::precise && __is_same(Lo, Exact)) {
      r = madd(whole, -F::ln2_lo, madd(whole, -F::ln2_hi, z));
    } else if constexpr (M::precise) {
      r = madd(whole, -F::ln2_hi, z) + madd(whole, -F::ln2_lo, lo);
    } else {
      r = madd(whole, -F::ln2, z);
    }
    tail = madd(underflowing_product(r, r), polynomial<M::Table::expm1>(r), r);
    scale = bits_of<T>((n + (F::bias + shift + shift_more)) << F::mantissa);
  }
};

// Below -far, e^z is 0 also as a subnormal number, and its scale would leave the range.
template <class T>
NNK_HD T not_too_far(T z) {
  return at_least(z, -Float<T>::far);
}

// 2^n, a normal number.
template <class T>
NNK_HD T power_of_two(typename Float<T>::Bits n) {
  return bits_of<T>((n + Float<T>::bias) << Float<T>::mantissa);
}

// e^z for z <= 30, kept in two factors so that a product with it is rounded once, also where e^z itself is subnormal.
// Where the first factor's exponent would leave the range, its bits are those of 0, and products are 0 without having
// to underflow. Until then v e^z is right for |v| < 2^(shift - 24) (double: 2^(shift - 53)).
template <class M, int shift = Float<typename M::T>::tail_shift>
struct Exponential {
  using T = typename M::T;
  using F = Float<T>;

  Reduced<M, shift> reduced;

  template <class Lo = Exact>
  explicit NNK_HD Exponential(T z, Lo lo = {}) : reduced(at_least(z, T(-F::bias - shift) * F::ln2), lo) {}

  // v e^z
  NNK_HD T times(T v) const {
    return underflowing_product(underflowing_product(madd(v, reduced.tail, v), reduced.scale), unit());
  }

  // v e^z with one rounding more, which costs less beside value().
  NNK_HD T times_value(T v) const { return underflowing_product(v * lifted(), unit() / T(2)); }

  // e^z / y for y like reciprocal's argument
  NNK_HD T over(T y) const { return underflowing_product(divide<M>(lifted(), y), unit() / T(2)); }

  NNK_HD T value() const { return underflowing_product(lifted(), unit() / T(2)); }

  // value() - 1, to full precision near 0.
  NNK_HD T minus_one() const {
    const T power = underflowing_product(reduced.scale, unit());
    return madd(power, reduced.tail, power - T(1));
  }

 private:
  static NNK_HD T unit() { return power_of_two<T>(-shift); }

  // 2^(shift + 1) e^z: normal, also where the scale is the smallest normal number and the tail negative, or 0.
  NNK_HD T lifted() const { return (T(2) + (reduced.tail + reduced.tail)) * reduced.scale; }
};

#if defined(__CUDA_ARCH__)
// The hardware's exponential is good to 2^-22, and a subnormal e^z has as many digits as a 16-bit product can show.
template <int shift>
struct Exponential<Fast, shift> {
  float e;

  template <class Lo = Exact>
  explicit NNK_HD Exponential(float z, Lo = {}) {
    asm("ex2.approx.f32 %0, %1;" : "=f"(e) : "f"(z * Float<float>::log2e));
  }

  NNK_HD float times(float v) const { return v * e; }
  NNK_HD float times_value(float v) const { return v * e; }
  NNK_HD float over(float y) const { return divide<Fast>(e, y); }
  NNK_HD float value() const { return e; }
  NNK_HD float minus_one() const { return e - 1.0f; }
};
#endif

// k where 2^k <= |c| < 2^(k + 1); 0 for what has none.
template <class T>
NNK_HD typename Float<T>::Bits exponent_of(T c) {
  using F = Float<T>;
  using Bits = typename F::Bits;
  const bool small = magnitude(c) < power_of_two<T>(1 - F::bias);
  const T normal = small ? c * power_of_two<T>(F::mantissa + 1) : c;
  const Bits k = ((bits_of<Bits>(magnitude(normal)) >> F::mantissa) - F::bias) - (small ? F::mantissa + 1 : 0);
  return c == T(0) || !(magnitude(c) <= F::largest) ? Bits(0) : k;
}

// c e^z for a constant c of any size: its power of two joins that of e^z, so that neither leaves the range before their
// product does. That is rounded once, with one exception: above 2^(bias - mantissa - 4), about 1e31 (double: 1e291), c
// leaves no room for products below c 2^-(2 bias - 1), which are 0.
template <class M>
struct Multiple {
  using T = typename M::T;
  using F = Float<T>;
  using Bits = typename F::Bits;

  T factor;  // c = factor 2^exponent
  Bits exponent;
  Interval<T> range;  // what z has to be held in: at its ends the product is c, and 0 or infinite

  NNK_HD Multiple(T c, bool grows) {
    const Bits k = exponent_of(c), lowest = 1 - F::bias;
    Bits lift = grows ? 2 : -F::mantissa - 4;
    if (k - lift < lowest) lift = k - lowest;
    if (k - lift > F::bias) lift = k - F::bias;
    exponent = k - lift;
    // The scale's exponent is the greatest at one end, and at the other its bits are those of 0.
    range =
        grows ? Interval<T>{T(0), T(F::bias - exponent) * F::ln2} : Interval<T>{T(-F::bias - exponent) * F::ln2, T(0)};
    // Where infinity times (1 + tail) is formed, the tail must not be negative.
    if (magnitude(c) > F::largest) range = {T(0.25), T(0.25)};
    // c 2^-k in two steps, either of which is in range.
    const Bits half = k / 2;
    factor = c * power_of_two<T>(-half) * power_of_two<T>(half - k) * power_of_two<T>(lift);
  }

  template <class Lo>
  NNK_HD T times_exponential(T z, Lo lo) const {
    const Reduced<M, 0> reduced(z, lo, exponent);
    return underflowing_product(madd(factor, reduced.tail, factor), reduced.scale);
  }
};

// e = e_r e^(d + lo), d being the distance from a root, and what it is above e_r, to full relative precision there.
// Both for what e multiplies and for that difference, the constant weight = e_r unit stands in front: no product has to
// be formed with either. e is to be held where unit e is normal, and at most e^42. What rounding took from e_r, the
// caller adds to lo as e_r_lo / e_r, and takes from the difference.
template <class M>
struct Growth {
  using T = typename M::T;
  static constexpr int shift = sizeof(T) == 8 ? 66 : 32;
  static constexpr T unit = sizeof(T) == 8 ? T(1.3552527156068805e-20) : T(2.3283064365386963e-10);  // 2^-shift

  T tail, scale;
  T e, weighted;  // weighted = weight (e - e_r)

  template <class Lo>
  NNK_HD Growth(T e_r, T d, Lo lo) {
    const Reduced<M, shift> reduced(d, lo);
    tail = reduced.tail;
    // What is added to w needs no more of a vanishing e than that it be normal.
    const T added = at_least(reduced.scale, power_of_two<T>(shift - (sizeof(T) == 8 ? 80 : 50)));
    const T weight = e_r * unit, leading = weight * added, both = (weight * weight) * added;
    weighted = madd(both, reduced.tail, both - weight * e_r);
    scale = reduced.scale;
    e = madd(leading, tail, leading);
  }

  // e v / weight, rounded once also where it is subnormal
  NNK_HD T times(T v) const { return underflowing_product(madd(v, tail, v), scale); }
};

#if defined(__CUDA_ARCH__)
template <>
struct Growth<Fast> {
  static constexpr float unit = 1.0f;
  float e, weighted, inverse_weight;

  template <class Lo>
  NNK_HD Growth(float e_r, float d, Lo)
      : e(e_r * Exponential<Fast>(d).value()), weighted(e_r * (e - e_r)), inverse_weight(1.0f / e_r) {}
  NNK_HD float times(float v) const { return v * inverse_weight * e; }
};
#endif

// e^z - 1 for z <= 0, to full relative precision near 0. Below -40 it is -1, and e^z is held where it is normal.
template <class M>
NNK_HD typename M::T expm1_of(typename M::T z) {
  using T = typename M::T;
  const Reduced<M, 0> reduced(at_least(z, T(-40)), Exact());
  return madd(reduced.scale, reduced.tail, reduced.scale - T(1));
}

// log(1 + u) / u for 0 <= u <= 1.
template <class M>
NNK_HD typename M::T log1p_ratio(typename M::T u) {
  using T = typename M::T;
  return polynomial<M::Table::log1p>(madd(T(2), u, T(-1)));
}

}  // namespace nnk::NNK_ISA
