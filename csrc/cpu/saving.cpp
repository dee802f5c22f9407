// Tiles that stay in the first-level cache: the family's own loops give value and derivative, one loop more packs.
#include "saving.h"

#include "convert.h"
#include "loops.h"
#include "random.h"

namespace nnk::NNK_ISA {
namespace {

// The code of each derivative, a byte each.
template <class T>
void encode(const QuantisedJob& job, const T* slopes, uint8_t* codes, int64_t count) {
  const T low = T(job.low), most = T((1 << job.bits) - 1);
  if (job.bits == 1) {
    for (int64_t i = 0; i < count; ++i) codes[i] = slopes[i] != low;
    return;
  }
  const T scale = most / (T(job.high) - low);
  for (int64_t i = 0; i < count; ++i) {
    const T code = at_least(at_most((slopes[i] - low) * scale + T(0.5), most), T(0));
    codes[i] = code == code ? static_cast<uint8_t>(code) : 0;
  }
}

// Overwrites the codes that fill the last byte up.
void pack(uint8_t* codes, uint8_t* packed, int bits, int64_t count) {
  const int64_t bytes = (count * bits + 7) / 8;
  for (int64_t i = count; i % (8 / bits) != 0; ++i) codes[i] = 0;
  if (bits == 8) {
    for (int64_t i = 0; i < bytes; ++i) packed[i] = codes[i];
  } else if (bits == 4) {
    for (int64_t i = 0; i < bytes; ++i) packed[i] = static_cast<uint8_t>(codes[2 * i] | codes[2 * i + 1] << 4);
  } else {
    for (int64_t i = 0; i < bytes; ++i) {
      uint64_t eight;
      memcpy(&eight, codes + 8 * i, 8);
      // Byte k's lowest bit lands in bit 56 + k of the product, and no two of the sums meet.
      packed[i] = static_cast<uint8_t>((eight * 0x0102040810204080ULL) >> 56);
    }
  }
}

void unpack(const uint8_t* packed, uint8_t* codes, int bits, int64_t count) {
  const int mask = (1 << bits) - 1, per_byte = 8 / bits;
  const int64_t bytes = (count + per_byte - 1) / per_byte;
  for (int64_t i = 0; i < bytes; ++i) {
    for (int k = 0; k < per_byte; ++k) codes[i * per_byte + k] = (packed[i] >> (k * bits)) & mask;
  }
}

template <class T>
void decode(const QuantisedJob& job, const uint8_t* codes, const T* grad, T* grad_input, int64_t count) {
  const T low = T(job.low), high = T(job.high);
  const T step = (high - low) / T((1 << job.bits) - 1);
  const bool cut = job.masks && low == T(0);
  if (job.bits == 1) {
    const T off = cut ? T(0) : low;
    for (int64_t i = 0; i < count; ++i) {
      const T product = grad[i] * (codes[i] ? high : off);
      grad_input[i] = cut && !codes[i] ? T(0) : product;
    }
    return;
  }
  for (int64_t i = 0; i < count; ++i) grad_input[i] = grad[i] * (T(codes[i]) * step + low);
}

template <class T>
struct Stored {
  using Computed = T;
  static constexpr Arithmetic arithmetic = sizeof(T) == 8 ? kDouble : kSingle;
  static void read(const T* from, T* to, int64_t count) { memcpy(to, from, sizeof(T) * count); }
  static void write(const T* from, T* to, int64_t count) { memcpy(to, from, sizeof(T) * count); }
};

template <class Narrow>
struct Narrowed {
  using Computed = float;
  static constexpr Arithmetic arithmetic = kFast;
  static void read(const Narrow* from, float* to, int64_t count) { widen(from, to, count); }
  static void write(const float* from, Narrow* to, int64_t count) { narrow(from, to, count); }
};

template <class T>
struct StorageOf : Stored<T> {};
template <>
struct StorageOf<BFloat16> : Narrowed<BFloat16> {};
template <>
struct StorageOf<Half> : Narrowed<Half> {};

template <class Element>
void forward(const QuantisedJob& job, int64_t begin, int64_t end) {
  using Storage = StorageOf<Element>;
  using T = typename Storage::Computed;
  alignas(64) T x[kQuantisedTile], y[kQuantisedTile], ones[kQuantisedTile], slopes[kQuantisedTile];
  alignas(64) uint8_t codes[kQuantisedTile] = {};
  for (T& one : ones) one = T(1);
  const Loop value = forward_loop(job.activation, Storage::arithmetic);
  const Loop times_slope = backward_loop(job.activation, Storage::arithmetic);
  for (int64_t at = begin; at < end; at += kQuantisedTile) {
    const int64_t count = end - at < kQuantisedTile ? end - at : kQuantisedTile;
    Storage::read(static_cast<const Element*>(job.in) + at, x, count);
    void* forward_data[] = {x, y};
    void* backward_data[] = {ones, x, slopes};
    value(job.a, job.b, forward_data, count);
    times_slope(job.a, job.b, backward_data, count);
    Storage::write(y, static_cast<Element*>(job.out) + at, count);
    encode(job, slopes, codes, count);
    pack(codes, job.packed + at * job.bits / 8, job.bits, count);
  }
}

template <class Element>
void backward(const QuantisedJob& job, int64_t begin, int64_t end) {
  using Storage = StorageOf<Element>;
  using T = typename Storage::Computed;
  alignas(64) T grad[kQuantisedTile], grad_input[kQuantisedTile];
  alignas(64) uint8_t codes[kQuantisedTile];
  for (int64_t at = begin; at < end; at += kQuantisedTile) {
    const int64_t count = end - at < kQuantisedTile ? end - at : kQuantisedTile;
    Storage::read(static_cast<const Element*>(job.in) + at, grad, count);
    unpack(job.packed + at * job.bits / 8, codes, job.bits, count);
    decode(job, codes, grad, grad_input, count);
    Storage::write(grad_input, static_cast<Element*>(job.out) + at, count);
  }
}

// The weights of `count` elements from number `at` on.
template <class T>
void spread(const SignsJob& job, int64_t at, T* weights, int64_t count) {
  const T* of_channel = static_cast<const T*>(job.weights);
  int64_t channel = at / job.inner % job.channels, left = job.inner - at % job.inner;
  for (int64_t i = 0; i < count; left = job.inner) {
    const int64_t stop = count - i < left ? count : i + left;
    for (; i < stop; ++i) weights[i] = of_channel[channel];
    channel = channel + 1 == job.channels ? 0 : channel + 1;
  }
}

template <class T>
void times_weights(const T* in, const uint8_t* codes, const T* weights, T* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const T product = in[i] * weights[i];
    out[i] = codes[i] ? product : in[i];
  }
}

// rrelu's own loops over rows of a tile's length, one of which is `second`: they draw what belongs to the elements.
void draw(const SignsJob& job, RandomPass pass, const void* second, int64_t at, int64_t count) {
  constexpr int64_t row = kQuantisedTile;
  const Operand in = {const_cast<void*>(job.in), row}, out = {job.out, row};
  RandomJob random{pass, job.scalar, job.seed, job.scale, job.offset, 0, at / row + 1, row, {in, out}};
  if (second != nullptr) random.operands[1] = {const_cast<void*>(second), 0}, random.operands[2] = out;
  NNK_ISA::random_run(random, at, at + count);
}

template <class Element>
void forward(const SignsJob& job, int64_t begin, int64_t end) {
  using Storage = StorageOf<Element>;
  using T = typename Storage::Computed;
  alignas(64) T x[kQuantisedTile], weights[kQuantisedTile];
  alignas(64) uint8_t codes[kQuantisedTile] = {};
  for (int64_t at = begin; at < end; at += kQuantisedTile) {
    const int64_t count = end - at < kQuantisedTile ? end - at : kQuantisedTile;
    Storage::read(static_cast<const Element*>(job.in) + at, x, count);
    if (job.draws) {
      for (int64_t i = 0; i < count; ++i) codes[i] = x[i] <= T(0);
      draw(job, RandomPass::rrelu, nullptr, at, count);
    } else {
      for (int64_t i = 0; i < count; ++i) codes[i] = !(x[i] > T(0));
      spread(job, at, weights, count);
      times_weights(x, codes, weights, x, count);
      Storage::write(x, static_cast<Element*>(job.out) + at, count);
    }
    pack(codes, job.packed + at / 8, 1, count);
  }
}

template <class Element>
void backward(const SignsJob& job, int64_t begin, int64_t end) {
  using Storage = StorageOf<Element>;
  using T = typename Storage::Computed;
  alignas(64) T wide[kQuantisedTile], weights[kQuantisedTile];
  alignas(64) Element signs[kQuantisedTile];
  alignas(64) uint8_t codes[kQuantisedTile];
  for (int64_t at = begin; at < end; at += kQuantisedTile) {
    const int64_t count = end - at < kQuantisedTile ? end - at : kQuantisedTile;
    unpack(job.packed + at / 8, codes, 1, count);
    if (job.draws) {
      for (int64_t i = 0; i < count; ++i) wide[i] = codes[i] ? T(0) : T(1);
      Storage::write(wide, signs, count);
      draw(job, RandomPass::rrelu_backward, signs, at, count);
    } else {
      Storage::read(static_cast<const Element*>(job.in) + at, wide, count);
      spread(job, at, weights, count);
      times_weights(wide, codes, weights, wide, count);
      Storage::write(wide, static_cast<Element*>(job.out) + at, count);
    }
  }
}

}  // namespace

#define NNK_BY_TYPE(pass)                                      \
  switch (job.scalar) {                                        \
    case Scalar::f64: return pass<double>(job, begin, end);    \
    case Scalar::f32: return pass<float>(job, begin, end);     \
    case Scalar::bf16: return pass<BFloat16>(job, begin, end); \
    case Scalar::f16: return pass<Half>(job, begin, end);      \
  }

void quantised_forward(const QuantisedJob& job, int64_t begin, int64_t end) { NNK_BY_TYPE(forward) }
void quantised_backward(const QuantisedJob& job, int64_t begin, int64_t end) { NNK_BY_TYPE(backward) }
void signs_forward(const SignsJob& job, int64_t begin, int64_t end) { NNK_BY_TYPE(forward) }
void signs_backward(const SignsJob& job, int64_t begin, int64_t end) { NNK_BY_TYPE(backward) }

#undef NNK_BY_TYPE

}  // namespace nnk::NNK_ISA
