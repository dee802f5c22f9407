// Stored numbers as numbers of the computing type, a tile at a time.
#pragma once

#include <cstring>

#include "convert.h"
#include "loops.h"

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

}  // namespace nnk::NNK_ISA
