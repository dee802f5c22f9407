// Stored numbers as two vectors of AVX-512, and back.
#pragma once

#include <immintrin.h>

#include "convert.h"

namespace nnk::NNK_ISA {

// Numbers are loaded as two vectors, in whatever order the widest loads give.
constexpr int64_t kStep = 32;

// Unlike a product, this does not stall where it is subnormal.
inline __m512 product(__m512 x, __m512 y) { return _mm512_fmadd_ps(x, y, _mm512_set1_ps(-0.0f)); }

inline void load(const float* from, __m512* x) {
  x[0] = _mm512_loadu_ps(from);
  x[1] = _mm512_loadu_ps(from + 16);
}
inline void store(const __m512* x, float* to) {
  _mm512_storeu_ps(to, x[0]);
  _mm512_storeu_ps(to + 16, x[1]);
}

inline void load(const BFloat16* from, __m512* x) {
  const __m512i words = _mm512_loadu_si512(from);
  x[0] = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
  x[1] = _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(-0x10000)));
}

// The nearest bfloat16 as the upper half of a number that arithmetic has made of bfloat16s: a NaN stays one, since its
// lower half is 0. Ties to even take three instructions, ties away from 0 one.
inline __m512i nearest_even(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x), one = _mm512_set1_epi32(1);
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i sum = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
  return _mm512_mask_add_epi32(sum, odd, sum, one);
}
inline __m512i nearest(__m512 x) { return _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000)); }

inline void store_halves(__m512i first, __m512i second, BFloat16* to) {
  _mm512_storeu_si512(to, _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(first, 16), second));
}
inline void store(const __m512* x, BFloat16* to) { store_halves(nearest(x[0]), nearest(x[1]), to); }

inline void load(const Half* from, __m512* x) {
  const __m512i halves = _mm512_loadu_si512(from);
  x[0] = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
  x[1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1));
}

inline void store(const __m512* x, Half* to) {
  const __m256i low = _mm512_cvtps_ph(x[0], 0), high = _mm512_cvtps_ph(x[1], 0);
  _mm512_storeu_si512(to, _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
}

// With ties to even, whatever the type.
template <class S>
void store_even(const __m512* x, S* to) {
  store(x, to);
}
inline void store_even(const __m512* x, BFloat16* to) { store_halves(nearest_even(x[0]), nearest_even(x[1]), to); }

// Of 32 adjacent numbers' bits those that belong to each vector of a load.
template <class S>
void masks(uint32_t bits, const S*, __mmask16* of) {
  of[0] = static_cast<__mmask16>(bits);
  of[1] = static_cast<__mmask16>(bits >> 16);
}
inline void masks(uint32_t bits, const BFloat16*, __mmask16* of) {
  const __m512i words = _mm512_movm_epi16(bits);
  of[0] = _mm512_test_epi32_mask(words, _mm512_set1_epi32(0xffff));
  of[1] = _mm512_test_epi32_mask(words, _mm512_set1_epi32(-0x10000));
}

}  // namespace nnk::NNK_ISA
