#include "pooling.h"

#include <cstdint>
#include <cstring>
#include <limits>

namespace nnk::NNK_ISA {
namespace {

// Floats of any size as integers of the same order: both zeros are 0, and NaN is above infinity. `Code`, which also
// holds the number of a piece, is as wide as the float, so that a loop over both fills whole vectors.
template <class Unsigned, class Signed, Signed kInfinity>
struct Ordered {
  using Value = Unsigned;
  using Code = Signed;
  static Signed key(Unsigned x) {
    const Signed sign = static_cast<Signed>(x) >> (8 * sizeof(Signed) - 1);
    const Signed size = x & std::numeric_limits<Signed>::max();
    const Signed ordered = static_cast<Signed>((size ^ sign) - sign);
    return size > kInfinity ? std::numeric_limits<Signed>::max() : ordered;
  }
};

// Eight codes of a byte each, as one word, to W bits each.
template <int W>
struct Packing {
  static constexpr uint64_t kTwo = 0x0001000100010001ull * ((1u << 2 * W) - 1);
  static constexpr uint64_t kFour = 0x0000000100000001ull * ((1ull << 4 * W) - 1);
  static constexpr int kShift = 8 - W;

  static uint64_t pack(uint64_t v) {
    v = (v | v >> kShift) & kTwo;
    v = (v | v >> 2 * kShift) & kFour;
    return v | v >> 4 * kShift;  // above the lowest 8 W bits lies what the caller drops
  }
};

template <int W>
void pack(const uint8_t* codes, uint8_t* packed) {
  for (int64_t i = 0; i < kMaxoutTile / 8; ++i) {
    uint64_t v;
    memcpy(&v, codes + 8 * i, 8);
    v = Packing<W>::pack(v);
    memcpy(packed + W * i, &v, W);
  }
}

template <int W, class Code>
void unpack(const uint8_t* packed, Code* codes, int64_t count) {
  constexpr int kCodes = 32 / W;
  for (int64_t i = 0; i < count; i += kCodes) {
    uint32_t word;
    memcpy(&word, packed + i * W / 8, sizeof(word));
    for (int k = 0; k < kCodes; ++k) codes[i + k] = static_cast<Code>(word >> W * k & ((1u << W) - 1));
  }
}

template <class Code>
void write_winners(const MaxoutJob& job, const Code* codes, int64_t begin, int64_t count) {
  uint8_t bytes[kMaxoutTile], packed[kMaxoutTile];
  for (int64_t i = 0; i < kMaxoutTile; ++i) bytes[i] = i < count ? static_cast<uint8_t>(codes[i]) : 0;
  switch (job.width) {
    case 1: pack<1>(bytes, packed); break;
    case 2: pack<2>(bytes, packed); break;
    case 4: pack<4>(bytes, packed); break;
    default: memcpy(packed, bytes, kMaxoutTile);
  }
  const int64_t first = begin * job.width / 8, tile = kMaxoutTile * job.width / 8;
  memcpy(job.winners + first, packed, job.winners_size - first < tile ? job.winners_size - first : tile);
}

// Those of a whole tile, or as many as the last one has.
template <class Code>
void read_winners(const MaxoutJob& job, Code* codes, int64_t begin, int64_t count) {
  uint8_t last[kMaxoutTile];
  const uint8_t* packed = job.winners + begin * job.width / 8;
  if (count < kMaxoutTile) {
    memcpy(last, packed, (count * job.width + 7) / 8);
    packed = last;
  }
  switch (job.width) {
    case 1: return unpack<1>(packed, codes, count);
    case 2: return unpack<2>(packed, codes, count);
    case 4: return unpack<4>(packed, codes, count);
    default: return unpack<8>(packed, codes, count);
  }
}

// Where piece 0 of output element i and the next piece lie. kAdjacent: inner is 1. kPieces: 0 is any number.
template <int kPieces, bool kAdjacent>
struct Steps {
  const int64_t element, piece;
  Steps(int64_t pieces, int64_t inner)
      : element(kAdjacent ? (kPieces ? kPieces : pieces) : 1), piece(kAdjacent ? 1 : inner) {}
};

template <class Type, int kPieces, bool kAdjacent>
void greatest(const typename Type::Value* x, int64_t pieces, int64_t inner, int64_t count, typename Type::Value* y,
              typename Type::Code* codes) {
  using Code = typename Type::Code;
  const Steps<kPieces, kAdjacent> step(pieces, inner);
  if constexpr (kPieces != 0) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      auto best = x[i * step.element];
      auto best_key = Type::key(best);
      Code code = 0;
#pragma GCC unroll 4
      for (int p = 1; p < kPieces; ++p) {
        const auto value = x[i * step.element + p * step.piece];
        const auto key = Type::key(value);
        const bool beats = key > best_key;
        best = beats ? value : best;
        best_key = beats ? key : best_key;
        code = beats ? static_cast<Code>(p) : code;
      }
      y[i] = best;
      codes[i] = code;
    }
  } else {
    for (int64_t i = 0; i < count; ++i) y[i] = x[i * step.element], codes[i] = 0;
    for (int64_t p = 1; p < pieces; ++p) {
      const auto* piece = x + p * step.piece;
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) {
        const auto value = piece[i * step.element];
        const bool beats = Type::key(value) > Type::key(y[i]);
        y[i] = beats ? value : y[i];
        codes[i] = beats ? static_cast<Code>(p) : codes[i];
      }
    }
  }
}

template <class Integer, int kPieces, bool kAdjacent>
void scatter(const Integer* grad, const Integer* codes, int64_t pieces, int64_t inner, int64_t count, Integer* out) {
  const Steps<kPieces, kAdjacent> step(pieces, inner);
  if constexpr (kPieces != 0) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      const Integer g = grad[i], code = codes[i];
#pragma GCC unroll 4
      for (int p = 0; p < kPieces; ++p) {
        const Integer wanted = code == static_cast<Integer>(p) ? g : static_cast<Integer>(0);
        out[i * step.element + p * step.piece] = wanted;
      }
    }
  } else if constexpr (kAdjacent) {
    memset(out, 0, sizeof(Integer) * count * pieces);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t code = static_cast<int64_t>(codes[i]);
      if (code < pieces) out[i * pieces + code] = grad[i];  // what was kept may have been changed since
    }
  } else {
    for (int64_t p = 0; p < pieces; ++p) {
      const Integer own = static_cast<Integer>(p);
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) {
        const Integer g = grad[i];
        out[i + p * step.piece] = codes[i] == own ? g : static_cast<Integer>(0);
      }
    }
  }
}

// body(first element, its offset in the tile, its offset in x, count) for the part of each row in [begin, end).
template <class Body>
void for_each_run(const MaxoutJob& job, int64_t begin, int64_t end, Body body) {
  for (int64_t i = begin; i < end;) {
    const int64_t row = i / job.inner, col = i % job.inner;
    const int64_t left = job.inner == 1 ? end - i : job.inner - col;
    const int64_t count = end - i < left ? end - i : left;
    body(i, i - begin, row * job.pieces * job.inner + col, count);
    i += count;
  }
}

template <class Type, int kPieces, bool kAdjacent>
void run_forward(const MaxoutJob& job, int64_t begin, int64_t end) {
  using Value = typename Type::Value;
  const Value* x = static_cast<const Value*>(job.in);
  Value* y = static_cast<Value*>(job.out);
  typename Type::Code codes[kMaxoutTile];
  for (; begin < end; begin += kMaxoutTile) {
    const int64_t stop = end - begin < kMaxoutTile ? end : begin + kMaxoutTile;
    for_each_run(job, begin, stop, [&](int64_t i, int64_t at, int64_t offset, int64_t count) {
      greatest<Type, kPieces, kAdjacent>(x + offset, job.pieces, job.inner, count, y + i, codes + at);
    });
    if (job.winners) write_winners(job, codes, begin, stop - begin);
  }
}

template <class Integer, int kPieces, bool kAdjacent>
void run_backward(const MaxoutJob& job, int64_t begin, int64_t end) {
  const Integer* grad = static_cast<const Integer*>(job.in);
  Integer* out = static_cast<Integer*>(job.out);
  Integer codes[kMaxoutTile];
  for (; begin < end; begin += kMaxoutTile) {
    const int64_t stop = end - begin < kMaxoutTile ? end : begin + kMaxoutTile;
    read_winners(job, codes, begin, stop - begin);
    for_each_run(job, begin, stop, [&](int64_t i, int64_t at, int64_t offset, int64_t count) {
      scatter<Integer, kPieces, kAdjacent>(grad + i, codes + at, job.pieces, job.inner, count, out + offset);
    });
  }
}

template <class Type, bool kAdjacent>
void forward_of(const MaxoutJob& job, int64_t begin, int64_t end) {
  switch (job.pieces) {
    case 2: return run_forward<Type, 2, kAdjacent>(job, begin, end);
    case 3: return run_forward<Type, 3, kAdjacent>(job, begin, end);
    case 4: return run_forward<Type, 4, kAdjacent>(job, begin, end);
    default: return run_forward<Type, 0, kAdjacent>(job, begin, end);
  }
}

template <class Integer, bool kAdjacent>
void backward_of(const MaxoutJob& job, int64_t begin, int64_t end) {
  switch (job.pieces) {
    case 2: return run_backward<Integer, 2, kAdjacent>(job, begin, end);
    case 3: return run_backward<Integer, 3, kAdjacent>(job, begin, end);
    case 4: return run_backward<Integer, 4, kAdjacent>(job, begin, end);
    default: return run_backward<Integer, 0, kAdjacent>(job, begin, end);
  }
}

template <class Type>
void forward_of(const MaxoutJob& job, int64_t begin, int64_t end) {
  job.inner == 1 ? forward_of<Type, true>(job, begin, end) : forward_of<Type, false>(job, begin, end);
}

// Gradients are moved, not computed with, so their size is all that counts.
template <class Integer>
void backward_of(const MaxoutJob& job, int64_t begin, int64_t end) {
  job.inner == 1 ? backward_of<Integer, true>(job, begin, end) : backward_of<Integer, false>(job, begin, end);
}

}  // namespace

void maxout(const MaxoutJob& job, int64_t begin, int64_t end) {
  switch (job.scalar) {
    case Scalar::f64: return forward_of<Ordered<uint64_t, int64_t, 0x7ff0000000000000>>(job, begin, end);
    case Scalar::f32: return forward_of<Ordered<uint32_t, int32_t, 0x7f800000>>(job, begin, end);
    case Scalar::bf16: return forward_of<Ordered<uint16_t, int16_t, 0x7f80>>(job, begin, end);
    case Scalar::f16: return forward_of<Ordered<uint16_t, int16_t, 0x7c00>>(job, begin, end);
  }
}

void maxout_backward(const MaxoutJob& job, int64_t begin, int64_t end) {
  switch (job.scalar) {
    case Scalar::f64: return backward_of<uint64_t>(job, begin, end);
    case Scalar::f32: return backward_of<uint32_t>(job, begin, end);
    case Scalar::bf16:
    case Scalar::f16: return backward_of<uint16_t>(job, begin, end);
  }
}

}  // namespace nnk::NNK_ISA
