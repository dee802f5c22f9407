// Stored numbers as two vectors of AVX-512, and back.
#pragma once

#include <immintrin.h>

#include "convert.h"

namespace nnk::NNK_ISA {

// 32 numbers, in whatever order the widest loads give.
struct Vectors {
  __m512 first, second;
};

constexpr int64_t kStep = 32;

// Unlike a product, this does not stall where it is subnormal.
inline __m512 product(__m512 x, __m512 y) { return _mm512_fmadd_ps(x, y, _mm512_set1_ps(-0.0f)); }
inline Vectors product(const Vectors& x, const Vectors& y) {
  return {product(x.first, y.first), product(x.second, y.second)};
}

inline Vectors load(const float* from) { return {_mm512_loadu_ps(from), _mm512_loadu_ps(from + 16)}; }
inline void store(const Vectors& x, float* to) {
  _mm512_storeu_ps(to, x.first);
  _mm512_storeu_ps(to + 16, x.second);
}

inline Vectors load(const BFloat16* from) {
  const __m512i words = _mm512_loadu_si512(from);
  return {_mm512_castsi512_ps(_mm512_slli_epi32(words, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(-0x10000)))};
}

// A number's upper half as `rounded` of convert.h gives it.
inline __m512i rounded(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x), half = _mm512_set1_epi32(0x7fff), one = _mm512_set1_epi32(1);
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i sum = _mm512_add_epi32(bits, half);
  const __m512i nearest = _mm512_mask_add_epi32(sum, odd, sum, one);
  return _mm512_mask_or_epi32(nearest, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), bits, _mm512_set1_epi32(0x400000));
}

inline void store(const Vectors& x, BFloat16* to) {
  const __m512i low = _mm512_srli_epi32(rounded(x.first), 16);
  _mm512_storeu_si512(to, _mm512_mask_blend_epi16(0xaaaaaaaa, low, rounded(x.second)));
}

inline Vectors load(const Half* from) {
  const __m512i halves = _mm512_loadu_si512(from);
  return {_mm512_cvtph_ps(_mm512_castsi512_si256(halves)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1))};
}

inline void store(const Vectors& x, Half* to) {
  const __m256i low = _mm512_cvtps_ph(x.first, 0), high = _mm512_cvtps_ph(x.second, 0);
  _mm512_storeu_si512(to, _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
}

}  // namespace nnk::NNK_ISA
