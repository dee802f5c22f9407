// Maxout: x of rows x pieces x inner adjacent elements, y of rows x inner. Output element i, counted row by row, has
// the `width` bits from i * width on in `winners`, the lowest bit of a byte first: the number of its greatest piece.
#pragma once

#include "../kernels.h"
#include "isa.h"

namespace nnk {

struct MaxoutJob {
  Scalar scalar;
  int64_t pieces, inner;
  int width;             // 1, 2, 4 or 8
  const void* in;        // forward: x; backward: the gradient of y
  void* out;             // forward: y; backward: the gradient of x
  uint8_t* winners;      // forward writes them, if not null; backward reads them
  int64_t winners_size;  // in bytes; those beyond the last element are set to 0
};

// Where a range of output elements may begin; it ends there, or with the last element.
constexpr int64_t kMaxoutTile = 1024;

// The width that so many pieces need.
inline int winner_bits(int64_t pieces) { return pieces <= 2 ? 1 : pieces <= 4 ? 2 : pieces <= 16 ? 4 : 8; }

}  // namespace nnk

NNK_KERNEL(maxout, (const MaxoutJob& job, int64_t begin, int64_t end), (job, begin, end))
NNK_KERNEL(maxout_backward, (const MaxoutJob& job, int64_t begin, int64_t end), (job, begin, end))
