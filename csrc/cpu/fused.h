// bias, activation, dropout and residual in one pass over a matrix of adjacent rows.
#pragma once

#include "../kernels.h"
#include "isa.h"

namespace nnk {

// Rows whose gradients are added up together, whatever the number of threads.
constexpr int64_t kFusedChunk = 32;

enum class Along : int { nothing = 0, cols = 1, rows = 2 };

struct FusedJob {
  bool backward;
  int activation;
  Scalar scalar;
  double a, b;
  int64_t rows, cols;
  Along along;  // where the channels are: column c is channel c, or row r is channel r % channels
  int64_t channels;
  bool drops;
  uint64_t seed;
  uint32_t threshold;  // the least random word whose element is kept
  double scale;        // of what is kept
  const void* x;       // backward: null where the derivative is 1
  const void* bias;    // of the computing type; null: none
  const void* residual;
  const void* grad;
  void* out;   // forward: y; backward: the gradient of x
  void* sums;  // backward: of the computing type, one row of `cols` for each chunk, or a number for each row; or null

  // Of the sums as rows of a number for each channel.
  int64_t sum_rows() const { return along == Along::cols ? (rows + kFusedChunk - 1) / kFusedChunk : rows / channels; }
};

}  // namespace nnk

// Rows [begin, end); `begin` is a multiple of kFusedChunk.
NNK_KERNEL(fused, (const FusedJob& job, int64_t begin, int64_t end), (job, begin, end))
