// 16-bit floats to float and back, a tile at a time.
#pragma once

#include <cstdint>
#include <cstring>

#include "../math.h"

#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif

namespace nnk::NNK_ISA {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

inline float widen_one(BFloat16 x) { return bits_of<float>(static_cast<uint32_t>(x.bits) << 16); }

// A bfloat16 in the upper half: to nearest, ties to even; a NaN would be rounded up to infinity, so it is truncated and
// made quiet instead.
inline uint32_t rounded(float x) {
  const uint32_t bits = bits_of<uint32_t>(x);
  return x != x ? bits | 0x400000 : bits + 0x7fff + ((bits >> 16) & 1);
}

inline BFloat16 narrow_one(float x, BFloat16) { return {static_cast<uint16_t>(rounded(x) >> 16)}; }

// Two adjacent numbers in one word, each of which becomes a float where it is: vectors of them need no wider lanes.
struct Pair16 {
  uint32_t word;
  float low() const { return bits_of<float>(word << 16); }
  float high() const { return bits_of<float>(word & 0xffff0000u); }
};

inline Pair16 load_pair(const BFloat16* from) {
  uint32_t word;
  std::memcpy(&word, from, sizeof(word));
  return {word};
}

inline void store_pair(float low, float high, BFloat16* to) {
  const uint32_t word = rounded(low) >> 16 | (rounded(high) & 0xffff0000u);
  std::memcpy(to, &word, sizeof(word));
}

inline void widen(const BFloat16* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = widen_one(from[i]);
}

inline void narrow(const float* from, BFloat16* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = narrow_one(from[i], BFloat16());
}

inline float widen_one(Half half) {
  // The exponent and mantissa in float's place are worth 2^-112 of the number, also when it is subnormal.
  const uint32_t bits = static_cast<uint32_t>(half.bits & 0x7fff) << 13;
  const float scaled = bits_of<float>(bits) * 0x1p112f;
  const uint32_t special = (half.bits & 0x7c00) == 0x7c00 ? 0x7f800000u : 0u;
  return bits_of<float>(bits_of<uint32_t>(scaled) | special | static_cast<uint32_t>(half.bits & 0x8000) << 16);
}

inline Half narrow_one(float x, Half) {
  const uint32_t sign = bits_of<uint32_t>(x) & 0x80000000u;
  const float size = bits_of<float>(bits_of<uint32_t>(x) ^ sign);
  // Normal results: add half a unit to the bits, ties to even, and shift the exponent's bias.
  const uint32_t bits = bits_of<uint32_t>(size);
  const uint32_t normal = (bits + 0xfff + ((bits >> 13) & 1) - 0x38000000u) >> 13;
  // Subnormal results: 0.5 has half's subnormal unit as its last place, so adding it rounds.
  const uint32_t subnormal = bits_of<uint32_t>(size + 0.5f) - 0x3f000000u;
  uint32_t result = size < 0x1p-14f ? subnormal : normal;
  result = size >= 65520.0f ? 0x7c00u : result;
  result = size != size ? 0x7e00u : result;
  return {static_cast<uint16_t>(result | sign >> 16)};
}

inline void widen(const Half* from, float* to, int64_t count) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= count; i += 16) {
    _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i))));
  }
#elif defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
  }
#endif
  for (; i < count; ++i) to[i] = widen_one(from[i]);
}

inline void narrow(const float* from, Half* to, int64_t count) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= count; i += 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), _mm512_cvtps_ph(_mm512_loadu_ps(from + i), 0));
  }
#elif defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), 0));
  }
#endif
  for (; i < count; ++i) to[i] = narrow_one(from[i], Half());
}

// A number as it is computed with, and as it is stored, whatever the type.
inline float number(float x) { return x; }
inline double number(double x) { return x; }
inline float number(BFloat16 x) { return widen_one(x); }
inline float number(Half x) { return widen_one(x); }

inline float stored(float x, float) { return x; }
inline double stored(double x, double) { return x; }
inline BFloat16 stored(float x, BFloat16 like) { return narrow_one(x, like); }
inline Half stored(float x, Half like) { return narrow_one(x, like); }

// A tile's numbers in an order of their own, the same for every tile of that size: of pairs, first the lower halves.
inline void widen_any_order(const BFloat16* from, float* to, int64_t count) {
  const int64_t pairs = count / 2;
  for (int64_t i = 0; i < pairs; ++i) {
    const Pair16 pair = load_pair(from + 2 * i);
    to[i] = pair.low(), to[pairs + i] = pair.high();
  }
  if (count % 2) to[count - 1] = widen_one(from[count - 1]);
}

inline void narrow_any_order(const float* from, BFloat16* to, int64_t count) {
  const int64_t pairs = count / 2;
  for (int64_t i = 0; i < pairs; ++i) store_pair(from[i], from[pairs + i], to + 2 * i);
  if (count % 2) to[count - 1] = narrow_one(from[count - 1], BFloat16());
}

inline void widen_any_order(const Half* from, float* to, int64_t count) { widen(from, to, count); }
inline void narrow_any_order(const float* from, Half* to, int64_t count) { narrow(from, to, count); }

}  // namespace nnk::NNK_ISA
