// Stored numbers as numbers of the computing type, a tile at a time.
#pragma once

#include <cstring>

#include "convert.h"
#include "loops.h"
#include "numbers.h"

namespace nnk::NNK_ISA {

template <class S>
struct Stored {
  using T = S;
  static constexpr Arithmetic arithmetic = sizeof(S) == 8 ? kDouble : kSingle;
};
template <>
struct Stored<BFloat16> {
  using T = float;
  static constexpr Arithmetic arithmetic = kFast;
};
template <>
struct Stored<Half> : Stored<BFloat16> {};

// Adjacent elements as numbers of the computing type: where they are, or in `tile`.
template <class S, class T>
const T* read(const void* from, int64_t at, T* tile, int64_t count) {
  const S* first = static_cast<const S*>(from) + at;
  if constexpr (sizeof(S) == sizeof(T)) {
    return first;
  } else {
    widen(first, tile, count);
    return tile;
  }
}

template <class S, class T>
T* place(void* to, int64_t at, T* tile) {
  if constexpr (sizeof(S) == sizeof(T)) {
    return static_cast<S*>(to) + at;
  } else {
    return tile;
  }
}

template <class S, class T>
void write(const T* tile, void* to, int64_t at, int64_t count) {
  if constexpr (sizeof(S) != sizeof(T)) narrow(tile, static_cast<S*>(to) + at, count);
}

// The same from a tile that `place` did not give.
template <class S, class T>
void put(const T* tile, void* to, int64_t at, int64_t count) {
  if constexpr (sizeof(S) == sizeof(T)) {
    memcpy(static_cast<S*>(to) + at, tile, sizeof(T) * count);
  } else {
    write<S>(tile, to, at, count);
  }
}

// Numbers of any type that T can hold, as `read` and `put` treat those of one.
template <class T>
const T* read(const Numbers& from, int64_t at, T* tile, int64_t count) {
  const auto convert = [&](auto like) -> const T* {
    const auto* first = static_cast<const decltype(like)*>(from.data) + at;
    if constexpr (sizeof(like) == 2 && sizeof(T) == 4) {
      widen(first, tile, count);
    } else {
      for (int64_t i = 0; i < count; ++i) tile[i] = static_cast<T>(number(first[i]));
    }
    return tile;
  };
  const bool is_wide = sizeof(T) == 8;
  switch (from.scalar) {
    case Scalar::f64: return static_cast<const T*>(from.data) + at;
    case Scalar::f32: return is_wide ? convert(float()) : static_cast<const T*>(from.data) + at;
    case Scalar::bf16: return convert(BFloat16());
    case Scalar::f16: return convert(Half());
  }
  return nullptr;
}

template <class T>
void put(const T* tile, const Numbers& to, int64_t at, int64_t count) {
  const auto convert = [&](auto like) {
    auto* first = static_cast<decltype(like)*>(to.data) + at;
    if constexpr (sizeof(like) == 2 && sizeof(T) == 4) {
      narrow(tile, first, count);
    } else {
      for (int64_t i = 0; i < count; ++i) first[i] = stored(static_cast<decltype(number(like))>(tile[i]), like);
    }
  };
  switch (to.scalar) {
    case Scalar::f64: return convert(double());
    case Scalar::f32: return convert(float());
    case Scalar::bf16: return convert(BFloat16());
    case Scalar::f16: return convert(Half());
  }
}

}  // namespace nnk::NNK_ISA
