// Normalisation over batches or groups, activation and residual, in passes over a dense tensor.
#pragma once

#include <memory>

#include "../kernels.h"
#include "isa.h"
#include "numbers.h"

namespace nnk {

// batch x rows x channels x inner elements; those of one batch index and `group` adjacent channels are normalised
// together. A lane is a channel of one batch index.
struct NormFrame {
  int64_t batch, rows, channels, inner, group;

  int64_t lanes() const { return batch * channels; }
  int64_t sets() const { return lanes() / group; }
};

// A tensor is cut into tasks, whatever the number of threads: some rows of some adjacent channels of one batch index.
struct NormTasks {
  static constexpr int64_t kTile = 1024;  // elements that stay in the first-level cache

  int64_t rows_each, chunks, channels_each, blocks;

  explicit NormTasks(const NormFrame& f) {
    channels_each = f.inner == 1 ? kTile : kTile / f.inner;
    if (channels_each < 1) channels_each = 1;
    if (channels_each > f.channels) channels_each = f.channels;
    blocks = (f.channels + channels_each - 1) / channels_each;
    const int64_t least = f.inner < 128 ? 128 / f.inner : 1, most = f.inner == 1 ? 512 : INT64_MAX;
    rows_each = 16 * kTile / (channels_each * f.inner);
    rows_each = rows_each < least ? least : rows_each > most ? most : rows_each;
    chunks = (f.rows + rows_each - 1) / rows_each;
  }
};

struct NormJob {
  NormFrame frame;
  int activation;
  Scalar scalar;
  double a, b;
  const void *x, *residual, *grad;  // residual: null for none
  // Of the computing type, for each lane: z = (x - center) scale + shift, grad_x = scale dz + along (x - center) +
  // offset.
  const void *center, *scale, *shift, *along, *offset;
  void *y, *grad_x, *grad_residual;  // grad_residual: null for none
  void* dz;      // of the computing type; where that is the stored one it may be grad_x. Null: spread
                 // computes it again, and sums writes grad_x = scale dz, the gradient where the
                 // statistics are fixed, unless that is null too
  double* sums;  // [chunks][lanes][2]
};

// The rows of a call's statistics, of one number for each set: how many values, their mean, what its rounding lost, and
// 1 / deviation.
enum NormRow { kCount, kCenter, kLow, kRstd, kNormRows };

// Memory for the partial sums of one pass, to which the job points.
std::unique_ptr<double[]> norm_partials(NormJob* job);

// Statistics of each set from what norm_moments left, the last row being sums of squares about the mean if `raw`. Moves
// the running ones, if they are given.
void norm_merge(const NormJob& job, Numbers statistics, Numbers running_mean, Numbers running_var, double momentum,
                double eps, bool raw);

// Each lane's sums of dz and of dz times the normalised value, [2, lanes], from what norm_sums left, and the same of
// each set, its channels' times their weights, [2, sets].
void norm_total(const NormJob& job, Numbers statistics, Numbers weight, Numbers sums, Numbers totals);

// Memory for each lane's numbers, to which the job points: center, scale and shift, and with the totals of norm_total
// along and offset. `weight`, `bias` and `totals` may be missing.
std::unique_ptr<char[]> norm_lanes(NormJob* job, Numbers statistics, Numbers weight, Numbers bias, Numbers totals);

}  // namespace nnk

// Tasks [begin, end). moments: each lane's mean and sum of squares about it; sums: of dz = grad f'(z) and dz (x -
// center).
NNK_KERNEL(norm_moments, (const NormJob& job, int64_t begin, int64_t end), (job, begin, end))
NNK_KERNEL(norm_apply, (const NormJob& job, int64_t begin, int64_t end), (job, begin, end))
NNK_KERNEL(norm_sums, (const NormJob& job, int64_t begin, int64_t end), (job, begin, end))
NNK_KERNEL(norm_spread, (const NormJob& job, int64_t begin, int64_t end), (job, begin, end))
