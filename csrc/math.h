// Arithmetic for the formulas, as scalar code for host and device, without branches, so that compilers vectorise it.
//
// A policy M carries the scalar type M::T and the polynomials of its precision:
//   Fast    float to about 2^-17: all that a 16-bit result can show
//   Single  float to about 1 ulp
//   Double  double to about 1 ulp
#pragma once

#include <cstdint>
#include <cstring>

#include "polynomials.h"

#if defined(__CUDACC__)
#define NNK_HD __host__ __device__ __forceinline__
#else
#define NNK_HD inline __attribute__((always_inline))
#endif

#if !defined(NNK_ISA)
#define NNK_ISA device
#endif

#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define NNK_GCC_ON_HOST
namespace nnk {
__attribute__((visibility("hidden"))) extern const float kOne;  // 1, which no loop knows
}
#endif

// One namespace for each instruction set: the linker must not merge AVX-512 code into the baseline's.
namespace nnk::NNK_ISA {

struct Fast {
  using T = float;
  using Table = FastPolynomials;
  static constexpr bool precise = false;
  // Whether e^z is an instruction, so that a formula may spend one to save others.
#if defined(__CUDA_ARCH__)
  static constexpr bool exponential_is_cheap = true;
#else
  static constexpr bool exponential_is_cheap = false;
#endif
};

struct Single {
  using T = float;
  using Table = FloatPolynomials;
  static constexpr bool precise = true;
  static constexpr bool exponential_is_cheap = false;
};

struct Double {
  using T = double;
  using Table = DoublePolynomials;
  static constexpr bool precise = true;
  static constexpr bool exponential_is_cheap = false;
};

template <class To, class From>
NNK_HD To bits_of(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

// fma. Where it is no instruction, float goes through double, which is as exact; double rounds its product, since the
// call of a soft fma would cost far more than that rounding.
NNK_HD float madd(float x, float y, float z) {
#if defined(__FMA__) || defined(__aarch64__) || defined(__CUDA_ARCH__)
  return __builtin_fmaf(x, y, z);
#else
  return static_cast<float>(static_cast<double>(x) * y + z);
#endif
}

NNK_HD double madd(double x, double y, double z) {
#if defined(__FMA__) || defined(__aarch64__) || defined(__CUDA_ARCH__)
  return __builtin_fma(x, y, z);
#else
  return x * y + z;
#endif
}

// x y - p, p being the rounded product, without error (up to underflow).
NNK_HD float product_error(float x, float y, float p) {
#if defined(__FMA__) || defined(__aarch64__) || defined(__CUDA_ARCH__)
  return __builtin_fmaf(x, y, -p);
#else
  return static_cast<float>(static_cast<double>(x) * y - p);
#endif
}

NNK_HD double product_error(double x, double y, double p) {
#if defined(__FMA__) || defined(__aarch64__) || defined(__CUDA_ARCH__)
  return __builtin_fma(x, y, -p);
#else
  // Dekker's splitting into halves of 26 bits.
  const double cx = 134217729.0 * x, cy = 134217729.0 * y;
  const double xh = cx - (cx - x), yh = cy - (cy - y), xl = x - xh, yl = y - yh;
  return ((xh * yh - p) + xh * yl + xl * yh) + xl * yl;
#endif
}

// x y, which may be subnormal. AMD's Zen 4 stalls for such a result of a multiplication, and longer for one of a
// division or for a subnormal operand there, but not for one of an fma.
template <class T>
NNK_HD T underflowing_product(T x, T y) {
#if defined(__FMA__)
  return madd(x, y, T(-0.0));
#else
  return x * y;
#endif
}

// x - y - d, d being the rounded difference (Knuth).
template <class T>
NNK_HD T difference_error(T x, T y, T d) {
  const T back = d - x;
  return (x - (d - back)) - (y + back);
}

// A value with the error of its rounding: hi + lo. Fast drops every lo.
template <class T, class Lo = T>
struct Pair {
  T hi;
  Lo lo;
};

template <class M>
NNK_HD Pair<typename M::T> multiply(typename M::T x, Pair<typename M::T> y) {
  using T = typename M::T;
  const T hi = underflowing_product(x, y.hi);
  if constexpr (!M::precise) return {hi, T(0)};
  return {hi, madd(x, y.lo, product_error(x, y.hi, hi))};
}

// A constant of a formula, exact to twice the type's digits.
template <class M>
NNK_HD Pair<typename M::T> constant(double hi, double lo = 0.0) {
  using T = typename M::T;
  if constexpr (sizeof(T) == 8) return {T(hi), T(lo)};
  return {T(hi), T(hi - double(T(hi)))};
}

NNK_HD float magnitude(float x) { return __builtin_fabsf(x); }
NNK_HD double magnitude(double x) { return __builtin_fabs(x); }
// x, formed here also where a choice throws it away: a branch would cost a GPU more.
template <class T>
NNK_HD T formed(T x) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == 4) asm volatile("" : "+f"(x));
#endif
  return x;
}

// -|x|; a NaN stays one.
NNK_HD float negative_magnitude(float x) { return bits_of<float>(bits_of<int32_t>(x) | INT32_MIN); }
NNK_HD double negative_magnitude(double x) { return bits_of<double>(bits_of<int64_t>(x) | INT64_MIN); }
NNK_HD float with_sign(float x, float sign) { return __builtin_copysignf(x, sign); }
NNK_HD double with_sign(double x, double sign) { return __builtin_copysign(x, sign); }

// x y + z to a rounding of the sum: madd, but for a double without fma.
NNK_HD float madd_once(float x, float y, float z) { return madd(x, y, z); }
NNK_HD double madd_once(double x, double y, double z) {
#if defined(__FMA__) || defined(__aarch64__) || defined(__CUDA_ARCH__)
  return madd(x, y, z);
#else
  const double product = x * y, sum = product + z;
  return magnitude(product) < 0x1p990 ? sum + product_error(x, y, product) : sum;
#endif
}

// gcc makes one instruction, max or min, of a comparison and a choice only if it does not know the bound; else two or
// three. The product is taken before the loop.
template <class T>
NNK_HD T unknown(T bound) {
#if defined(NNK_GCC_ON_HOST)
  return __builtin_constant_p(bound) ? bound * T(kOne) : bound;
#else
  return bound;
#endif
}

// Comparisons are false for NaN, which therefore passes.
template <class T>
NNK_HD T at_most(T x, T bound) {
  const T limit = unknown(bound);
  return x > limit ? limit : x;
}

template <class T>
NNK_HD T at_least(T x, T bound) {
  const T limit = unknown(bound);
  return x < limit ? limit : x;
}

// 1 / y for 1 <= y < 1e30: no flushed number is near.
template <class M>
NNK_HD typename M::T reciprocal(typename M::T y) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(y) == 4) {
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(y));
    if constexpr (M::precise) r = madd(r, madd(-r, y, 1.0f), r);
    return r;
  }
#endif
  return typename M::T(1) / y;
}

// 1 / (x + k), as exact as one rounding allows unless M is fast: what rounding takes from the sum is not lost. k has
// few bits, and x + k is like reciprocal's argument.
template <class M>
NNK_HD typename M::T reciprocal_of_sum(typename M::T x, typename M::T k) {
  using T = typename M::T;
  const T d = x + k;
  T r;
  if constexpr (sizeof(T) == 4) {
    r = reciprocal<Fast>(d);  // what follows makes the only correction that it needs
  } else {
    r = reciprocal<M>(d);
  }
  if constexpr (!M::precise) return r;
  return madd(r, madd(-r, x - (d - k), madd(-r, d, T(1))), r);
}

// 2^z, or 0 where that is subnormal.
NNK_HD float flushed_power(float z) {
#if defined(__CUDA_ARCH__)
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(z));
  return power;
#else
  return __builtin_exp2f(z);
#endif
}

template <class M>
NNK_HD float square_root(float x) {
#if defined(__CUDA_ARCH__)
  if constexpr (!M::precise) {
    float root;
    asm("sqrt.approx.f32 %0, %1;" : "=f"(root) : "f"(x));
    return root;
  }
#endif
  return __builtin_sqrtf(x);
}

template <class M>
NNK_HD double square_root(double x) {
  return __builtin_sqrt(x);
}

// x / y for y like reciprocal's argument.
template <class M>
NNK_HD typename M::T divide(typename M::T x, typename M::T y) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(y) == 4) {
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(y));
    const float quotient = x * r;
    if constexpr (M::precise) {
      // An infinite quotient's residual would be infinity minus infinity. In this order of signs -0 / y stays -0.
      const float corrected = madd(-r, madd(quotient, y, -x), quotient);
      return magnitude(quotient) < __builtin_inff() ? corrected : quotient;
    }
    return quotient;
  }
#endif
  return x / y;
}

// max(x, -0); a NaN stays one.
NNK_HD float positive_part(float x) {
#if defined(__CUDA_ARCH__)
  float part;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(part) : "f"(x), "f"(-0.0f));
  return part;
#else
  return x < 0.0f ? -0.0f : x;
#endif
}
NNK_HD double positive_part(double x) { return x < 0.0 ? -0.0 : x; }

template <class T>
struct Interval {
  T low, high;
  NNK_HD T hold(T x) const {
#if defined(__CUDA_ARCH__)
    if constexpr (sizeof(T) == 4) {  // bounds that may be NaN make a comparison and a choice of each
      float most, held;
      asm("min.NaN.f32 %0, %1, %2;" : "=f"(most) : "f"(x), "f"(high));
      asm("max.NaN.f32 %0, %1, %2;" : "=f"(held) : "f"(most), "f"(low));
      return held;
    }
#endif
    return at_least(at_most(x, high), low);
  }
};

// Horner's rule over a constant table, lowest power first. The recursion keeps the coefficients in the instructions.
template <auto& table, int I = 0, class T>
NNK_HD T polynomial(T x) {
  constexpr T coefficient = table[I];
  if constexpr (I + 1 == sizeof(table) / sizeof(table[0])) {
    return coefficient;
  } else {
    return madd(polynomial<table, I + 1>(x), x, coefficient);
  }
}

}  // namespace nnk::NNK_ISA
