// Smooth activations as polynomials on pieces of the line. AVX-512 picks the coefficients for 16 numbers out of two
// registers in one instruction, so that a function costs a few fused multiply-adds, and no exponential or quotient.
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

// A function on 32 pieces, centred on the multiples of their width: (|x| - root)^power times a polynomial on each. The
// factor is there for the relative precision around a root.
struct Cut {
  float per_unit;    // pieces; their width is 1 / per_unit
  int single, fast;  // degrees for the arithmetics Single and Fast
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

template <class M>
constexpr bool is_cut(const Cut& cut) {
#if defined(__AVX512F__)
  return cut.per_unit > 0 && sizeof(typename M::T) == sizeof(float);
#else
  return false;
#endif
}

#if defined(__AVX512F__)

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

  // y = f(x), or y = f(x) grad; `formula` gives f at a number beyond the pieces.
  template <class S, class Formula, class... Grad>
  void run(const Formula& formula, const S* x, S* y, int64_t count, const Grad*... grad) const {
    int64_t i = 0;
    while (i + kStep <= count) {
      if (within(load(x + i))) {
        i = run_within(i, x, y, count, grad...);
      } else {
        step(formula, x + i, y + i, (grad + i)...);
        i += kStep;
      }
    }
    if (i < count) {
      const size_t bytes = (count - i) * sizeof(S);
      const auto padded = [&](const S* from) {
        Padded<S> to{};
        memcpy(to.numbers, from + i, bytes);
        return to;
      };
      const Padded<S> tail = padded(x);
      Padded<S> out;
      step(formula, tail.numbers, out.numbers, padded(grad).numbers...);
      memcpy(y + i, out.numbers, bytes);
    }
  }

 private:
  template <class S>
  struct Padded {
    S numbers[kStep];
  };

  // As `run`, from i up to numbers that are not all within the pieces; gives their place. The coefficients stay in
  // registers, since nothing is called.
  template <class S, class... Grad>
  __attribute__((noinline)) int64_t run_within(int64_t i, const S* x, S* y, int64_t count, const Grad*... grad) const {
    const Pieces pieces = *this;
    for (; i + kStep <= count; i += kStep) {
      const Vectors numbers = load(x + i);
      if (__builtin_expect(!within(numbers), false)) break;
      Vectors f{pieces(numbers.first), pieces(numbers.second)};
      ((f = product(f, load(grad + i))), ...);
      store(f, y + i);
    }
    return i;
  }

  template <class S, class Formula, class... Grad>
  void step(const Formula& formula, const S* x, S* y, const Grad*... grad) const {
    const Vectors numbers = load(x);
    Vectors f{anywhere(formula, numbers.first), anywhere(formula, numbers.second)};
    ((f = product(f, load(grad))), ...);
    store(f, y);
  }

  template <class Formula>
  __attribute__((noinline)) __m512 anywhere(const Formula& formula, __m512 x) const {
    const __mmask16 inside = within(x);
    alignas(64) float numbers[16];
    _mm512_store_ps(numbers, x);
    if (inside != kAll) {
      for (int i = 0; i < 16; ++i) numbers[i] = formula(numbers[i]);
    }
    const __m512 y = _mm512_load_ps(numbers);
    return inside ? _mm512_mask_mov_ps(y, inside, (*this)(x)) : y;
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
  static bool within(const Vectors& x) { return (within(x.first) & within(x.second)) == kAll; }
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

template <template <class> class Activation, class M>
const auto& value_pieces() {
  static const Pieces<M, Cuts<Activation>::value> pieces([](double x) { return Activation<Double>(0, 0).value(x); });
  return pieces;
}

template <template <class> class Activation, class M>
const auto& slope_pieces() {
  static const Pieces<M, Cuts<Activation>::slope> pieces([](double x) { return Activation<Double>(0, 0).d1(x); });
  return pieces;
}

#endif

}  // namespace nnk::NNK_ISA
