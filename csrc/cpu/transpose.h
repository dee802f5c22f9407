// Matrices copied between memories in which rows and columns have changed places.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "convert.h"

namespace nnk::NNK_ISA {

// A square tile of a vector's width that changes rows for columns in registers.
template <class T>
class SquareTile {
#if defined(__AVX2__)
  static constexpr int kBytes = 32;
#else
  static constexpr int kBytes = 16;
#endif

 public:
  static constexpr int kSide = kBytes / sizeof(T);

  // Rows and columns are so far apart.
  NNK_HD static void transpose(const T* from, int64_t from_row, T* to, int64_t to_col) {
    Vector rows[kSide];
    for (int i = 0; i < kSide; ++i) std::memcpy(&rows[i], from + i * from_row, kBytes);
    deal<kSide>(rows);
    for (int i = 0; i < kSide; ++i) std::memcpy(to + i * to_col, &rows[i], kBytes);
  }

 private:
  typedef T Vector __attribute__((vector_size(kBytes)));

  // Each round deals out two halves of the rows like cards, which turns the digits of an element's place by one; after
  // as many rounds as a row's number has digits, row and column are exchanged.
  template <int left>
  NNK_HD static void deal(Vector (&rows)[kSide]) {
    if constexpr (left > 1) {
      Vector next[kSide];
      for (int i = 0; i < kSide / 2; ++i) {
        next[2 * i] = dealt<0>(rows[i], rows[i + kSide / 2], std::make_integer_sequence<int, kSide>());
        next[2 * i + 1] = dealt<kSide / 2>(rows[i], rows[i + kSide / 2], std::make_integer_sequence<int, kSide>());
      }
      for (int i = 0; i < kSide; ++i) rows[i] = next[i];
      deal<left / 2>(rows);
    }
  }

  // x[first], y[first], x[first + 1], y[first + 1], ...
  template <int first, int... i>
  NNK_HD static Vector dealt(Vector x, Vector y, std::integer_sequence<int, i...>) {
    return __builtin_shufflevector(x, y, (first + i / 2 + i % 2 * kSide)...);
  }
};

// A matrix whose elements lie so far apart from row to row and from column to column.
template <class T>
struct Matrix {
  T* data;
  int64_t row, col;
};

// In the type that both are computed with, or from and to what is stored.
template <class From, class To>
void copy(Matrix<const From> from, Matrix<To> to, int64_t rows, int64_t cols) {
  const auto copy_part = [&](int64_t top, int64_t bottom, int64_t left, int64_t right) {
    for (int64_t r = top; r < bottom; ++r) {
      for (int64_t c = left; c < right; ++c) {
        to.data[r * to.row + c * to.col] = stored(number(from.data[r * from.row + c * from.col]), To());
      }
    }
  };
  if constexpr (std::is_same_v<From, To>) {
    constexpr int64_t side = SquareTile<To>::kSide;
    if (from.col == 1 && to.row == 1) {
      const int64_t bottom = rows / side * side, right = cols / side * side;
      for (int64_t r = 0; r < bottom; r += side) {
        for (int64_t c = 0; c < right; c += side) {
          SquareTile<To>::transpose(from.data + r * from.row + c, from.row, to.data + r + c * to.col, to.col);
        }
      }
      copy_part(0, bottom, right, cols);
      return copy_part(bottom, rows, 0, cols);
    }
  }
  copy_part(0, rows, 0, cols);
}

}  // namespace nnk::NNK_ISA
