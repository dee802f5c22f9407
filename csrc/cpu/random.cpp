// Draws the random bits of a tile, then reads them beside the data: both stay in the first-level cache.
#include "random.h"

#include <type_traits>

#include "../philox.h"
#include "../smooth.h"
#include "convert.h"

#if defined(__AVX512F__)
#include "vectors.h"
#endif

namespace nnk::NNK_ISA {
namespace {

constexpr int64_t kTile = kRandomTile;

struct Numbers {
  alignas(64) uint32_t words[kTile];  // or, for slopes of 16-bit tensors, twice as many halves
};

// What a slope's random bits are as a number. A word's upper 23 bits become the mantissa of a float in [1, 2).
inline float number(uint32_t word) { return bits_of<float>(word >> 9 | 0x3f800000u); }
// 16 bits resolve a slope that a 16-bit product rounds to at most 11; they become the last bits of 2^23 + bits.
inline float number(uint16_t half) { return bits_of<float>(0x4b000000u | half); }

template <class Bits>
float slope(float x, Bits bits, float scale, float offset) {
  const float drawn = madd(number(bits), scale, offset);
  return x <= 0 ? drawn : 1.0f;
}
double slope(double x, uint32_t word, double scale, double offset) {
  const double drawn = madd(static_cast<double>(word), scale, offset);
  return x <= 0 ? drawn : 1.0;
}

template <class T, class Bits>
void rrelu(const T* grad, const T* x, T* y, const Bits* bits, int64_t count, const RandomJob& job) {
  const T scale = static_cast<T>(job.scale), offset = static_cast<T>(job.offset);
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) y[i] = grad[i] * slope(x[i], bits[i], scale, offset);
}

template <class T, class Bits>
void rrelu_kept(const T* x, T* slopes, T* y, const Bits* bits, int64_t count, const RandomJob& job) {
  const T scale = static_cast<T>(job.scale), offset = static_cast<T>(job.offset);
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const T drawn = slope(x[i], bits[i], scale, offset);
    slopes[i] = drawn;
    y[i] = x[i] * drawn;
  }
}

// Multiplied by 0 rather than replaced by it where dropped, as PyTorch does: a NaN stays one.
template <class T>
void dropout(const T* x, T* y, const uint32_t* words, int64_t count, const RandomJob& job) {
  const T scale = static_cast<T>(job.scale);
  const uint32_t threshold = job.threshold;
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) y[i] = x[i] * (words[i] >= threshold ? scale : T(0));
}

// Adjacent bits, lowest first, of whether a word is at least the threshold.
void pack(const uint32_t* words, uint32_t threshold, int64_t count, uint8_t* bits) {
  const auto packed = [&](int64_t i) {
    uint32_t mask = 0;
#pragma omp simd reduction(| : mask)
    for (int j = 0; j < 32; ++j) mask |= static_cast<uint32_t>(words[i + j] >= threshold) << j;
    return mask;
  };
  const int64_t whole = count / 32 * 32;
  for (int64_t i = 0; i < whole; i += 32) {
    const uint32_t mask = packed(i);
    memcpy(bits + i / 8, &mask, sizeof(mask));
  }
  if (whole == count) return;
  const uint32_t rest = packed(whole);
  memcpy(bits + whole / 8, &rest, (count - whole + 7) / 8);
}

// Words of 1 where a bit is set, and of 0 elsewhere.
void unpack(const uint8_t* bits, int64_t count, uint32_t* words) {
  const auto unpacked = [&](int64_t i, uint32_t mask) {
    for (int j = 0; j < 32; ++j) words[i + j] = mask >> j & 1;
  };
  const int64_t whole = count / 32 * 32;
  uint32_t mask = 0;
  for (int64_t i = 0; i < whole; i += 32) {
    memcpy(&mask, bits + i / 8, sizeof(mask));
    unpacked(i, mask);
  }
  if (whole == count) return;
  memcpy(&mask, bits + whole / 8, (count - whole + 7) / 8);
  unpacked(whole, mask);
}

// 1 with probability sigmoid(x), drawn as the rarer of 0 and 1, whose probability keeps its digits on both sides.
template <class M>
void bernoulli(const typename M::T* x, typename M::T* y, const uint32_t* words, int64_t count) {
  using T = typename M::T;
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const Exponential<M> tail(negative_magnitude(x[i]));
    const T probability = tail.over(T(1) + tail.value());
    const bool rare = static_cast<T>(static_cast<int32_t>(words[i] >> 1)) + T(0.5) < probability * T(0x1p31);
    const T unit = rare != (x[i] > T(0)) ? T(1) : T(0);
    y[i] = x[i] == x[i] ? unit : x[i];
  }
}

#if defined(__AVX512F__)
template <class S>
int64_t times_bits(const RandomJob& job, int64_t begin, int64_t end) {
  const S* x = static_cast<const S*>(job.operands[0].data);
  S* y = static_cast<S*>(job.operands[1].data);
  const __m512 scale = _mm512_set1_ps(static_cast<float>(job.scale));
  for (; begin + kStep <= end; begin += kStep) {
    uint32_t bits;
    memcpy(&bits, job.bits + begin / 8, sizeof(bits));
    __m512 numbers[2];
    __mmask16 kept[2];
    load(x + begin, numbers);
    masks(bits, x, kept);
    for (int k = 0; k < 2; ++k) numbers[k] = _mm512_mul_ps(numbers[k], _mm512_maskz_mov_ps(kept[k], scale));
    store_even(numbers, y + begin);
  }
  return begin;
}
#endif

// dropout_again over adjacent elements, from `begin`, a multiple of 32, up to the place that is given back.
int64_t times_bits(const RandomJob& job, int64_t begin, int64_t end) {
#if defined(__AVX512F__)
  switch (job.scalar) {
    case Scalar::f64: break;
    case Scalar::f32: return times_bits<float>(job, begin, end);
    case Scalar::bf16: return times_bits<BFloat16>(job, begin, end);
    case Scalar::f16: return times_bits<Half>(job, begin, end);
  }
#endif
  return begin;
}

bool drops(const RandomJob& job) { return job.pass == RandomPass::dropout || job.pass == RandomPass::dropout_again; }

template <class T>
void run_wide(const RandomJob& job, void* const* data, const void* bits, int64_t count) {
  const uint32_t* words = static_cast<const uint32_t*>(bits);
  const T* first = static_cast<const T*>(data[0]);
  if (drops(job)) return dropout(first, static_cast<T*>(data[1]), words, count, job);
  if (job.pass == RandomPass::rrelu) return rrelu(first, first, static_cast<T*>(data[1]), words, count, job);
  if (job.pass == RandomPass::bernoulli) {
    return bernoulli<std::conditional_t<sizeof(T) == 8, Double, Single>>(first, static_cast<T*>(data[1]), words, count);
  }
  T* last = static_cast<T*>(data[2]);
  if (job.pass == RandomPass::rrelu_kept) return rrelu_kept(first, static_cast<T*>(data[1]), last, words, count, job);
  rrelu(first, static_cast<const T*>(data[1]), last, words, count, job);
}

template <class Narrow>
void run_narrow(const RandomJob& job, void* const* data, const void* bits, int64_t count) {
  alignas(64) float first[kTile], second[kTile];
  widen(static_cast<const Narrow*>(data[0]), first, count);
  const uint16_t* halves = static_cast<const uint16_t*>(bits);
  void* out = data[1];
  if (drops(job)) {
    dropout(first, first, static_cast<const uint32_t*>(bits), count, job);
  } else if (job.pass == RandomPass::bernoulli) {
    bernoulli<Fast>(first, first, static_cast<const uint32_t*>(bits), count);
  } else if (job.pass == RandomPass::rrelu) {
    rrelu(first, first, first, halves, count, job);
  } else if (job.pass == RandomPass::rrelu_kept) {
    rrelu_kept(first, second, first, halves, count, job);
    narrow(second, static_cast<Narrow*>(data[1]), count);
    out = data[2];
  } else {
    widen(static_cast<const Narrow*>(data[1]), second, count);
    rrelu(first, second, first, halves, count, job);
    out = data[2];
  }
  narrow(first, static_cast<Narrow*>(out), count);
}

using Run = void (*)(const RandomJob& job, void* const* data, const void* bits, int64_t count);

Run run_for(Scalar scalar) {
  switch (scalar) {
    case Scalar::f64: return run_wide<double>;
    case Scalar::f32: return run_wide<float>;
    case Scalar::bf16: return run_narrow<BFloat16>;
    case Scalar::f16: break;
  }
  return run_narrow<Half>;
}

}  // namespace

void random_run(const RandomJob& job, int64_t begin, int64_t end) {
  const int64_t size = job.scalar == Scalar::f64 ? 8 : job.scalar == Scalar::f32 ? 4 : 2;
  const bool keeps = job.pass == RandomPass::rrelu_kept, again = job.pass == RandomPass::rrelu_backward;
  const int operands = keeps || again ? 3 : 2;
  const bool slopes = keeps || again || job.pass == RandomPass::rrelu;
  const int64_t bytes = size == 2 && slopes ? 2 : 4;      // of random bits for an element
  const int64_t elements = size == 2 ? 8 : kPhiloxWords;  // that a counter serves
  bool flat = true;
  for (int o = 0; o < operands; ++o) flat &= job.operands[o].row_stride == job.cols;
  const int64_t cols = flat ? job.rows * job.cols : job.cols;
  const Run run = run_for(job.scalar);
  if (flat && job.pass == RandomPass::dropout_again) begin = times_bits(job, begin, end);
  Numbers numbers;
  char* bits = reinterpret_cast<char*>(numbers.words);
  while (begin < end) {
    const int64_t tile = begin / kTile * kTile;
    const int64_t stop = end < tile + kTile ? end : tile + kTile;
    if (job.pass == RandomPass::dropout_again) {
      unpack(job.bits + tile / 8, stop - tile, numbers.words);
    } else {
      const int64_t first = tile / elements, counters = (stop - tile + elements - 1) / elements;
      if (size == 2 && bytes == 4) {
        philox_of_halves(job.seed, first, counters, numbers.words);
      } else {
        philox(job.seed, first, counters, bits);
      }
      if (job.bits) pack(numbers.words, job.threshold, stop - tile, job.bits + tile / 8);
    }
    while (begin < stop) {
      const int64_t row = begin / cols, col = begin % cols;
      const int64_t count = stop - begin < cols - col ? stop - begin : cols - col;
      void* data[3];
      for (int o = 0; o < operands; ++o) {
        data[o] = static_cast<char*>(job.operands[o].data) + (row * job.operands[o].row_stride + col) * size;
      }
      run(job, data, bits + (begin - tile) * bytes, count);
      begin += count;
    }
  }
}

}  // namespace nnk::NNK_ISA
