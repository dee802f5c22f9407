// What softmax's passes share: exponentials that stay normal numbers, sums whose error does not grow, and rows.
#pragma once

#include <type_traits>

#include "../exponentials.h"
#include "convert.h"
#include "reducing.h"

namespace nnk::NNK_ISA {

// Sums run in the compute type over at most so many terms for each lane, and in double over those: neither the length
// of a row nor the number of threads shows in them.
constexpr int64_t kTile = 1024;

template <class T>
struct Range;

// Exponentials are kept as unit e^z, a normal number wherever the result is not 0.
template <>
struct Range<float> {
  static constexpr float unit = 0x1p64f, infinity = __builtin_inff(), exact_below = 0x1p20f;
};
template <>
struct Range<double> {
  static constexpr double unit = 0x1p512, infinity = __builtin_inf(), exact_below = 0x1p48;
};

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

template <class T>
void widen(const T* from, T* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}

template <class T>
void narrow(const T* from, T* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}

// unit e^z. Far below, where the result is 0, it is so small that no result shows it.
template <class M, class T = typename M::T>
NNK_HD T exponential(Pair<T> z) {
  const Reduced<M> reduced(not_too_far(z.hi), z.lo);
  return madd(reduced.scale, reduced.tail, reduced.scale);
}

// How many elements of a row a causal form keeps.
inline int64_t kept(int64_t n, int64_t queries, int64_t outer) { return queries ? least(n, outer % queries + 1) : n; }

template <class S, class T>
void fill(S* y, int64_t count, T value) {
  S one;
  narrow(&value, &one, 1);
  for (int64_t i = 0; i < count; ++i) y[i] = one;
}

// What lies beyond the diagonal.
template <class S, class T>
void fill_rest(S* y, int64_t rows, int64_t count, int64_t stride, int64_t width, T value) {
  if (width == 1) return fill(y + count, rows - count, value);
  for (int64_t d = count; d < rows; ++d) fill(y + d * stride, width, value);
}

}  // namespace nnk::NNK_ISA
