// Smooth activations as polynomials on pieces of the line. AVX-512 picks the coefficients for 16 numbers out of two
// registers in one instruction, so that a function costs a few fused multiply-adds, and no exponential or quotient.
// The polynomials are derived from the formulas in double when a function is first called; numbers beyond the pieces
// take the formula itself. What a number gives never depends on its neighbours.
#pragma once

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "loops.h"

namespace nnk::NNK_ISA {

// How f(x) follows from q(|x|), f on the side where it vanishes (or on either side, if both are the same but for sign).
enum class Fold {
  none,        // it does not: pieces lie on both sides
  even,        // f(x) = q
  odd,         // f(x) = sign(x) q
  complement,  // f(x) = 1 - q on the other side
  gate,        // f(x) = x + q on the other side
};

// A function on 32 pieces, centred on the multiples of their width: (|x| - root)^power times a polynomial on each. The
// factor is there for the relative precision around a root.
struct Cut {
  float per_unit;      // pieces; their width is 1 / per_unit
  int single, fast;    // degrees for the arithmetics Single and Fast
  Fold fold;
  int power;
  double root;
  bool vanishes_above = false;
};

// How value and slope of an activation without constants are cut; others are not.
template <template <class> class Activation>
struct Cuts {
  static constexpr Cut value{}, slope{};
};

template <>
struct Cuts<sigmoid> {
  static constexpr Cut value{3.25, 4, 3, Fold::complement, 0, 0}, slope{3.25, 4, 3, Fold::even, 0, 0};
};
template <>
struct Cuts<tanh> {
  static constexpr Cut value{3.25, 5, 3, Fold::odd, 1, 0}, slope{3.5, 5, 4, Fold::even, 0, 0};
};
template <>
struct Cuts<silu> {
  static constexpr Cut value{3.25, 4, 3, Fold::gate, 1, 0};
  static constexpr Cut slope{3.25, 4, 3, Fold::complement, 1, -DoublePolynomials::silu_root_hi};
};
template <>
struct Cuts<gelu> {
  static constexpr Cut value{5.75, 6, 4, Fold::gate, 1, 0};
  static constexpr Cut slope{5.75, 6, 4, Fold::complement, 1, -DoublePolynomials::gelu_root_hi};
};
template <>
struct Cuts<gelu_tanh> {
  static constexpr Cut value{6.5, 6, 4, Fold::gate, 1, 0};
  static constexpr Cut slope{6.5, 6, 4, Fold::complement, 1, -DoublePolynomials::gelu_tanh_root_hi};
};
template <>
struct Cuts<gelu_sigmoid> {
  static constexpr Cut value{4, 5, 3, Fold::gate, 1, 0};
  static constexpr Cut slope{4, 5, 3, Fold::complement, 1, -DoublePolynomials::silu_root_hi / 1.702};
};
template <>
struct Cuts<mish> {
  static constexpr Cut value{2, 6, 4, Fold::none, 1, 0}, slope{2, 6, 4, Fold::none, 1, DoublePolynomials::mish_root_hi};
};
template <>
struct Cuts<logsigmoid> {
  static constexpr Cut value{3.25, 4, 3, Fold::gate, 0, 0, true}, slope{3.25, 4, 3, Fold::complement, 0, 0, true};
};
template <>
struct Cuts<tanhshrink> {
  static constexpr Cut value{3.25, 6, 4, Fold::odd, 3, 0}, slope{3.5, 5, 4, Fold::even, 2, 0};
};
template <>
struct Cuts<sqrtsoftplus> {
  static constexpr Cut value{2, 5, 3, Fold::none, 0, 0}, slope{2, 5, 3, Fold::none, 0, 0};
};

#if defined(__AVX512F__)

template <class M>
constexpr bool is_cut(const Cut& cut) {
  return cut.per_unit > 0 && sizeof(typename M::T) == sizeof(float);
}

template <class M, const Cut& cut>
class Pieces {
 public:
  // Interpolates `f`, told and giving doubles.
  template <class F>
  explicit Pieces(F f) {
    const double width = 1.0 / cut.per_unit, side = cut.fold == Fold::none || cut.vanishes_above ? 1 : -1;
    for (int piece = kFirst; piece < kFirst + kPieces; ++piece) {
      double at[kTerms], terms[kTerms];  // in widths from the piece's middle
      for (int i = 0; i < kTerms; ++i) {
        at[i] = 0.5 * __builtin_cos((i + 0.5) * (3.141592653589793 / kTerms));
        double x = width * (piece + at[i]);
        if (x == cut.root) x = width * (piece + (at[i] += 1e-3));
        terms[i] = f(side * x) / factor(x);
      }
      // Newton's divided differences, then the products of his nodes multiplied out.
      for (int order = 1; order < kTerms; ++order) {
        for (int i = kTerms - 1; i >= order; --i) terms[i] = (terms[i] - terms[i - 1]) / (at[i] - at[i - order]);
      }
      for (int order = kTerms - 2; order >= 0; --order) {
        for (int i = order; i < kTerms - 1; ++i) terms[i] -= at[order] * terms[i + 1];
      }
      for (int i = 0; i < kTerms; ++i) coefficients_[i][piece & (kPieces - 1)] = static_cast<float>(terms[i]);
    }
  }

  // use(i, here, y) for f at x[0] to x[count - 1], 16 numbers a call, of which those in the mask `here` are meant;
  // `formula` gives f at a number beyond the pieces.
  template <class Formula, class Use>
  void run(const Formula& formula, const float* x, int64_t count, const Use& use) const {
    for (int64_t i = 0; i < count;) {
      const __mmask16 here = count - i < 16 ? (1u << (count - i)) - 1 : kAll;
      const __m512 numbers = _mm512_maskz_loadu_ps(here, x + i);
      const __mmask16 inside = within(numbers);
      if ((inside & here) == kAll) {
        i = run_within(x, i, count, use);
      } else {
        __m512 y = inside == kAll ? numbers : by_formula(formula, numbers);
        if (inside) y = _mm512_mask_mov_ps(y, inside, (*this)(numbers));
        use(i, here, y);
        i += 16;
      }
    }
  }

  static __m512 product(__m512 x, __m512 y) { return _mm512_fmadd_ps(x, y, all(-0.0)); }

 private:
  // As `run`, up to the first vector that is not whole or not within the pieces; gives its place. The coefficients stay
  // in registers, since nothing is called.
  template <class Use>
  __attribute__((noinline)) int64_t run_within(const float* x, int64_t i, int64_t count, const Use& use) const {
    const Pieces pieces = *this;
    for (; i + 16 <= count; i += 16) {
      const __m512 numbers = _mm512_loadu_ps(x + i);
      if (__builtin_expect(within(numbers) != kAll, false)) break;
      use(i, kAll, pieces(numbers));
    }
    return i;
  }

  template <class Formula>
  __attribute__((noinline)) static __m512 by_formula(const Formula& formula, __m512 x) {
    alignas(64) float numbers[16];
    _mm512_store_ps(numbers, x);
    for (int i = 0; i < 16; ++i) numbers[i] = formula(numbers[i]);
    return _mm512_load_ps(numbers);
  }

  // f at x where `within`, anything elsewhere.
  __m512 operator()(__m512 x) const {
    const __m512 folded = cut.fold == Fold::none ? x : _mm512_abs_ps(x);
    // The sum's last five bits are the number of the piece; negative numbers wrap around.
    const __m512 per_unit = all(cut.per_unit), magic = all(Float<float>::magic);
    const __m512 shifted = _mm512_fmadd_ps(folded, per_unit, magic);
    const __m512i piece = _mm512_castps_si512(shifted);
    const __m512 t = _mm512_fmsub_ps(folded, per_unit, _mm512_sub_ps(shifted, magic));
    __m512 q = coefficient(kTerms - 1, piece);
#pragma GCC unroll 16
    for (int i = kTerms - 2; i >= 0; --i) q = _mm512_fmadd_ps(q, t, coefficient(i, piece));
    for (int i = 0; i < cut.power; ++i) q = product(q, from_root(cut.fold == Fold::odd ? x : folded));
    const auto other = _mm512_cmp_ps_mask(x, all(0), cut.vanishes_above ? _CMP_LT_OQ : _CMP_NLT_UQ);
    if constexpr (cut.fold == Fold::complement) return _mm512_mask_sub_ps(q, other, all(1), q);
    if constexpr (cut.fold == Fold::gate) return _mm512_mask_add_ps(q, other, x, q);
    return q;
  }

  // Not for NaN.
  static __mmask16 within(__m512 x) {
    constexpr double last = kFirst + kPieces - 1 + 0.499;
    return _mm512_cmp_ps_mask(_mm512_abs_ps(x), all(last / cut.per_unit), _CMP_LT_OQ);
  }

  static constexpr __mmask16 kAll = 0xffff;
  static constexpr int kPieces = 32, kFirst = cut.fold == Fold::none ? -kPieces / 2 : 0;
  static constexpr int kTerms = (M::precise ? cut.single : cut.fast) + 1;

  static __m512 all(double number) { return _mm512_set1_ps(static_cast<float>(number)); }

  static double factor(double x) {
    double y = 1;
    for (int i = 0; i < cut.power; ++i) y *= cut.fold == Fold::odd ? -x : x - cut.root;
    return y;
  }

  static __m512 from_root(__m512 x) {
    constexpr float hi = static_cast<float>(cut.root), lo = static_cast<float>(cut.root - hi);
    if constexpr (hi == 0) return x;
    const __m512 distance = _mm512_sub_ps(x, all(hi));
    return lo == 0 || !M::precise ? distance : _mm512_sub_ps(distance, all(lo));
  }

  __m512 coefficient(int i, __m512i piece) const {
    return _mm512_permutex2var_ps(_mm512_load_ps(coefficients_[i]), piece, _mm512_load_ps(coefficients_[i] + 16));
  }

  alignas(64) float coefficients_[kTerms][kPieces];
};

#endif

}  // namespace nnk::NNK_ISA
