// Smooth activations as polynomials on pieces of the line. AVX-512 picks the coefficients for 16 numbers out of one or
// two registers in one instruction, so that a function costs a few fused multiply-adds, and no exponential or quotient.
// The polynomials are derived from the formulas in double when a function is first called; numbers beyond the pieces
// take the formula itself. What a number gives never depends on its neighbours.
#pragma once

#include "loops.h"

#if defined(__AVX512F__)
#include "vectors.h"
#endif

namespace nnk::NNK_ISA {

// How f(x) follows from q(|x|), f on the side where it vanishes (or on either side, if both are the same but for sign).
enum class Fold {
  none,        // it does not: pieces lie on both sides
  even,        // f(x) = q
  odd,         // f(x) = sign(x) q
  complement,  // f(x) = 1 - q on the other side
  gate,        // f(x) = x + q on the other side
};

// A function on pieces that are centred on the multiples of their width: (|x| - root)^power times a polynomial on each.
// The factor is there for the relative precision around a root. 16 pieces want a degree more than 32, but cost less:
// picking out of two registers takes a pipeline of the fused multiply-adds.
struct Cut {
  float per_unit;    // pieces; their width is 1 / per_unit
  int single, fast;  // degrees for the arithmetics Single and Fast
  Fold fold;
  int power;
  double root;
  bool vanishes_above = false;
  int pieces = 32;
  int brief = 0;  // the degree for what bfloat16 keeps, if it is less than `fast`
};

// How value and slope of an activation without constants are cut; others are not.
template <template <class> class Activation>
struct Cuts {
  static constexpr Cut value{}, slope{};
};

template <>
struct Cuts<sigmoid> {
  static constexpr Cut value{2, 5, 4, Fold::complement, 0, 0, false, 16, 2};
  static constexpr Cut slope{2, 5, 4, Fold::even, 0, 0, false, 16, 2};
};
template <>
struct Cuts<tanh> {
  static constexpr Cut value{2, 6, 4, Fold::odd, 1, 0, false, 16, 3}, slope{2, 6, 5, Fold::even, 0, 0, false, 16, 3};
};
template <>
struct Cuts<silu> {
  static constexpr Cut value{2, 5, 4, Fold::gate, 1, 0, false, 16, 2};
  static constexpr Cut slope{2, 5, 4, Fold::complement, 1, -DoublePolynomials::silu_root_hi, false, 16, 2};
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
  static constexpr Cut value{2, 5, 4, Fold::gate, 0, 0, true, 16, 2};
  static constexpr Cut slope{2, 5, 4, Fold::complement, 0, 0, true, 16, 2};
};
template <>
struct Cuts<tanhshrink> {
  static constexpr Cut value{3.25, 6, 4, Fold::odd, 3, 0}, slope{3.5, 5, 4, Fold::even, 2, 0};
};
template <>
struct Cuts<sqrtsoftplus> {
  static constexpr Cut value{2, 5, 3, Fold::none, 0, 0}, slope{2, 5, 3, Fold::none, 0, 0};
};

template <class M>
constexpr bool is_cut(const Cut& cut) {
#if defined(__AVX512F__)
  return cut.per_unit > 0 && sizeof(typename M::T) == sizeof(float);
#else
  return false;
#endif
}

#if defined(__AVX512F__)

// For numbers stored as S.
template <class M, class S, const Cut& cut>
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
        at[i] *= kSpacing;
      }
      // Newton's divided differences, then the products of his nodes multiplied out.
      for (int order = 1; order < kTerms; ++order) {
        for (int i = kTerms - 1; i >= order; --i) terms[i] = (terms[i] - terms[i - 1]) / (at[i] - at[i - order]);
      }
      for (int order = kTerms - 2; order >= 0; --order) {
        for (int i = order; i < kTerms - 1; ++i) terms[i] -= at[order] * terms[i + 1];
      }
      for (int i = 0; i < kTerms; ++i) coefficients_[i][piece - kFirst] = static_cast<float>(terms[i]);
    }
  }

  // y = f(x), or y = f(x) grad; `formula` gives f at a number beyond the pieces.
  template <class Formula, class... Grad>
  void run(const Formula& formula, const S* x, S* y, int64_t count, const Grad*... grad) const {
    int64_t i = 0;
    while (i + kStep <= count) {
      i = run_within(i, x, y, count, grad...);
      if (i + kStep > count) break;
      step(formula, x + i, y + i, (grad + i)...);
      i += kStep;
    }
    if (i < count) {
      const size_t bytes = (count - i) * sizeof(S);
      const auto padded = [&](const S* from) {
        Padded to{};
        memcpy(to.numbers, from + i, bytes);
        return to;
      };
      const Padded tail = padded(x);
      Padded out;
      step(formula, tail.numbers, out.numbers, padded(grad).numbers...);
      memcpy(y + i, out.numbers, bytes);
    }
  }

 private:
  struct Padded {
    S numbers[kStep];
  };

  // As `run`, from i up to where numbers may lie beyond the pieces, or are few; gives that place. The coefficients stay
  // in registers, since nothing is called. What is read before the first store is not held up by it (see isa.h).
  template <class... Grad>
  __attribute__((noinline)) int64_t run_within(int64_t i, const S* x, S* y, int64_t count, const Grad*... grad) const {
    const Pieces pieces = *this;
    for (; i + 2 * kStep <= count; i += 2 * kStep) {
      __m512 f[4];
      load(x + i, f);
      load(x + i + kStep, f + 2);
      if (__builtin_expect(_mm512_test_epi32_mask(places(f), beyond()), 0)) break;
      pieces.evaluate(f);
      (multiply(f, grad + i), ...);
      (multiply(f + 2, grad + i + kStep), ...);
      store(f, y + i);
      store(f + 2, y + i + kStep);
    }
    return i;
  }

  template <class Formula, class... Grad>
  void step(const Formula& formula, const S* x, S* y, const Grad*... grad) const {
    __m512 f[2];
    load(x, f);
    for (__m512& number : f) number = anywhere(formula, number);
    (multiply(f, grad), ...);
    store(f, y);
  }

  static void multiply(__m512* x, const S* by) {
    __m512 factors[2];
    load(by, factors);
    for (int k = 0; k < 2; ++k) x[k] = product(x[k], factors[k]);
  }

  template <class Formula>
  __attribute__((noinline)) __m512 anywhere(const Formula& formula, __m512 x) const {
    __m512 f[1]{x};
    const __mmask16 inside = _mm512_testn_epi32_mask(places(f), beyond());
    alignas(64) float numbers[16];
    _mm512_store_ps(numbers, x);
    if (inside != kAll) {
      for (int i = 0; i < 16; ++i) numbers[i] = formula(numbers[i]);
    }
    const __m512 y = _mm512_load_ps(numbers);
    if (!inside) return y;
    evaluate(f);
    return _mm512_mask_mov_ps(y, inside, f[0]);
  }

  // f at x within the pieces, anything elsewhere; vectors side by side, since each waits for its own steps.
  template <int N>
  void evaluate(__m512 (&x)[N]) const {
    __m512i piece[N];
    __m512 number[N], t[N], q[N];
#pragma GCC unroll 16
    for (int k = 0; k < N; ++k) {
      number[k] = folded(x[k]);
      const __m512 sum = shifted(x[k]), middle = _mm512_sub_ps(sum, magic());
      piece[k] = _mm512_castps_si512(sum);
      t[k] = kOnlyAdds ? _mm512_sub_ps(number[k], middle) : _mm512_fmsub_ps(number[k], all(cut.per_unit), middle);
      q[k] = coefficient(kTerms - 1, piece[k]);
    }
#pragma GCC unroll 16
    for (int i = kTerms - 2; i >= 0; --i) {
#pragma GCC unroll 16
      for (int k = 0; k < N; ++k) q[k] = _mm512_fmadd_ps(q[k], t[k], coefficient(i, piece[k]));
    }
#pragma GCC unroll 16
    for (int k = 0; k < N; ++k) {
      for (int i = 0; i < cut.power; ++i) q[k] = product(q[k], from_root(cut.fold == Fold::odd ? x[k] : number[k]));
      x[k] = unfolded(x[k], q[k]);
    }
  }

  static __m512 folded(__m512 x) { return cut.fold == Fold::none ? x : _mm512_abs_ps(x); }

  static __m512 unfolded(__m512 x, __m512 q) {
    const auto other = _mm512_cmp_ps_mask(x, all(0), cut.vanishes_above ? _CMP_LT_OQ : _CMP_NLT_UQ);
    if constexpr (cut.fold == Fold::complement) return _mm512_mask_sub_ps(q, other, all(1), q);
    if constexpr (cut.fold == Fold::gate) return _mm512_mask_add_ps(q, other, x, q);
    return q;
  }

  static __m512 magic() { return all(kSpacing * (Float<float>::magic - kFirst)); }

  // The place as a sum whose last bits number the pieces from 0 on.
  static __m512 shifted(__m512 x) {
    return kOnlyAdds ? _mm512_add_ps(folded(x), magic()) : _mm512_fmadd_ps(folded(x), all(cut.per_unit), magic());
  }

  // Of each lane the pieces' numbers, one over the other; a bit of `beyond` is set if one is beyond them, or NaN.
  template <int N>
  static __m512i places(const __m512 (&x)[N]) {
    const __m512i first = _mm512_castps_si512(all(kSpacing * Float<float>::magic));
    __m512i found = _mm512_setzero_si512();
#pragma GCC unroll 16
    for (int k = 0; k < N; ++k) {
      found = _mm512_ternarylogic_epi32(found, _mm512_castps_si512(shifted(x[k])), first, 0xf6);  // found | (x ^ first)
    }
    return found;
  }
  static __m512i beyond() { return _mm512_set1_epi32(~(kPieces - 1)); }

  // Whether a float's own digits tell pieces apart: sums, whose pipelines stand idle, then replace products.
  static constexpr bool kOnlyAdds = cut.per_unit == 2 || cut.per_unit == 4;
  static constexpr double kSpacing = kOnlyAdds ? 1 / cut.per_unit : 1;  // of the pieces' middles, as `t` measures

  static constexpr __mmask16 kAll = 0xffff;
  static constexpr int kPieces = cut.pieces, kFirst = cut.fold == Fold::none ? -kPieces / 2 : 0;
  static constexpr bool kBrief = __is_same(S, BFloat16) && cut.brief;
  static constexpr int kTerms = (M::precise ? cut.single : kBrief ? cut.brief : cut.fast) + 1;

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
    if constexpr (kPieces == 16) return _mm512_permutexvar_ps(piece, _mm512_load_ps(coefficients_[i]));
    return _mm512_permutex2var_ps(_mm512_load_ps(coefficients_[i]), piece, _mm512_load_ps(coefficients_[i] + 16));
  }

  alignas(64) float coefficients_[kTerms][kPieces];
};

template <template <class> class Activation, class M, class S>
const auto& value_pieces() {
  static const Pieces<M, S, Cuts<Activation>::value> pieces([](double x) { return Activation<Double>(0, 0).value(x); });
  return pieces;
}

template <template <class> class Activation, class M, class S>
const auto& slope_pieces() {
  static const Pieces<M, S, Cuts<Activation>::slope> pieces([](double x) { return Activation<Double>(0, 0).d1(x); });
  return pieces;
}

#endif

}  // namespace nnk::NNK_ISA
