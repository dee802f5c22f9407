// Philox4x32 (Salmon, Moraes, Dror & Shaw 2011, Parallel random numbers: as easy as 1, 2, 3): four random 32-bit words
// for each counter and seed. Counter i serves the elements 4i to 4i + 3 (8i to 8i + 7 of 16-bit tensors), so any
// element can be drawn again, by any thread and in any order. nnkernels/triton/philox.py draws the same words.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if !defined(NNK_ISA)
#define NNK_ISA device
#endif

namespace nnk::NNK_ISA {

// The fewest rounds that pass BigCrush, of which Philox makes no more than speed asks for.
constexpr int kPhiloxRounds = 7;
constexpr int kPhiloxWords = 4;

// Each 32-bit word of the state lies in a 64-bit lane: the widening product reads the lower half only, so what the
// rounds leave in the upper one does no harm, and no lane ever moves before the last step.
#if defined(__AVX512F__)
using Lanes = __m512i;
inline Lanes product(Lanes a, Lanes b) { return _mm512_mul_epu32(a, b); }
inline void store_pairs(Lanes a, Lanes b, char* out) {
  const Lanes low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), high = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
  _mm512_storeu_si512(out, _mm512_permutex2var_epi64(a, low, b));
  _mm512_storeu_si512(out + 64, _mm512_permutex2var_epi64(a, high, b));
}
#elif defined(__AVX2__)
using Lanes = __m256i;
inline Lanes product(Lanes a, Lanes b) { return _mm256_mul_epu32(a, b); }
inline void store_pairs(Lanes a, Lanes b, char* out) {
  const Lanes even = _mm256_unpacklo_epi64(a, b), odd = _mm256_unpackhi_epi64(a, b);
  _mm256_storeu_si256(reinterpret_cast<Lanes*>(out), _mm256_permute2x128_si256(even, odd, 0x20));
  _mm256_storeu_si256(reinterpret_cast<Lanes*>(out + 32), _mm256_permute2x128_si256(even, odd, 0x31));
}
#elif defined(__x86_64__)
using Lanes = __m128i;
inline Lanes product(Lanes a, Lanes b) { return _mm_mul_epu32(a, b); }
inline void store_pairs(Lanes a, Lanes b, char* out) {
  _mm_storeu_si128(reinterpret_cast<Lanes*>(out), _mm_unpacklo_epi64(a, b));
  _mm_storeu_si128(reinterpret_cast<Lanes*>(out + 16), _mm_unpackhi_epi64(a, b));
}
#elif defined(__aarch64__)
using Lanes = uint64x2_t;
inline Lanes product(Lanes a, Lanes b) { return vmull_u32(vmovn_u64(a), vmovn_u64(b)); }
inline void store_pairs(Lanes a, Lanes b, char* out) {
  vst1q_u8(reinterpret_cast<uint8_t*>(out), vreinterpretq_u8_u64(vzip1q_u64(a, b)));
  vst1q_u8(reinterpret_cast<uint8_t*>(out + 16), vreinterpretq_u8_u64(vzip2q_u64(a, b)));
}
#else
using Lanes = uint64_t;
inline Lanes product(Lanes a, Lanes b) { return (a & 0xffffffff) * (b & 0xffffffff); }
inline void store_pairs(Lanes a, Lanes b, char* out) {
  memcpy(out, &a, sizeof(a));
  memcpy(out + sizeof(a), &b, sizeof(b));
}
#endif

constexpr int kPhiloxLanes = sizeof(Lanes) / sizeof(uint64_t);

// GCC's and Clang's own vectors, for the operators that intrinsics lack.
#if defined(__GNUC__)
typedef uint64_t LaneArithmetic __attribute__((vector_size(sizeof(Lanes))));
typedef uint64_t TwoWords __attribute__((may_alias));  // in an array of words
#else
using LaneArithmetic = uint64_t;
using TwoWords = uint64_t;
#endif

// The words of `count` counters from `first` on, in order; a whole number of Lanes is written.
inline void philox(uint64_t seed, uint64_t first, int64_t count, void* words) {
  using V = LaneArithmetic;
  constexpr uint32_t kBumps[2] = {0x9E3779B9, 0xBB67AE85};
  const V multipliers[2] = {V{} + 0xD2511F53, V{} + 0xCD9E8D57}, low_half = V{} + 0xffffffff;
  const auto times = [](V a, V b) { return (V)product((Lanes)a, (Lanes)b); };
  V keys[kPhiloxRounds][2];
  for (int round = 0; round < kPhiloxRounds; ++round) {
    keys[round][0] = V{} + static_cast<uint32_t>(static_cast<uint32_t>(seed) + round * kBumps[0]);
    keys[round][1] = V{} + static_cast<uint32_t>(static_cast<uint32_t>(seed >> 32) + round * kBumps[1]);
  }
  uint64_t steps[kPhiloxLanes];
  for (int lane = 0; lane < kPhiloxLanes; ++lane) steps[lane] = first + lane;
  V counter;
  memcpy(&counter, steps, sizeof(counter));
  char* out = static_cast<char*>(words);
  for (int64_t done = 0; done < count; done += kPhiloxLanes) {
    // The first round, where c2 = c3 = 0.
    const V first_product = times(counter, multipliers[0]);
    V c0 = (counter >> 32) ^ keys[0][0], c1 = V{}, c2 = (first_product >> 32) ^ keys[0][1], c3 = first_product;
    for (int round = 1; round < kPhiloxRounds; ++round) {
      const V a = times(c0, multipliers[0]), b = times(c2, multipliers[1]);
      c0 = (b >> 32) ^ c1 ^ keys[round][0];
      c2 = (a >> 32) ^ c3 ^ keys[round][1];
      c1 = b;
      c3 = a;
    }
    store_pairs((Lanes)((c0 & low_half) | c1 << 32), (Lanes)((c2 & low_half) | c3 << 32), out);
    out += 2 * sizeof(Lanes);
    counter += kPhiloxLanes;
  }
}

// The lower word of two, and the 32 bits from its upper half on.
inline uint64_t from_each_half(uint64_t two) { return (two & 0xffffffff) | two >> 16 << 32; }

// A word for each of the eight elements that each of `count` counters serves: the 32 bits from the element's own half
// of a word on, where behind the last word the first one follows again.
inline void philox_of_halves(uint64_t seed, uint64_t first, int64_t count, uint32_t* words) {
  constexpr int64_t kCounters = 64;
  alignas(64) uint64_t drawn[kCounters][2];
  for (int64_t done = 0; done < count; done += kCounters) {
    const int64_t some = count - done < kCounters ? count - done : kCounters;
    philox(seed, first + done, some, drawn);
    TwoWords* out = reinterpret_cast<TwoWords*>(words + 8 * done);
#if defined(__GNUC__)
#pragma GCC ivdep
#endif
    for (int64_t i = 0; i < some; ++i) {
      const uint64_t a = drawn[i][0], b = drawn[i][1];
      out[4 * i] = from_each_half(a);
      out[4 * i + 1] = from_each_half(a >> 32 | b << 32);
      out[4 * i + 2] = from_each_half(b);
      out[4 * i + 3] = from_each_half(b >> 32 | a << 32);
    }
  }
}

}  // namespace nnk::NNK_ISA
