// Tiles of a row that stay in the first-level cache; the family's own loops give value and derivative.
#include "fused.h"

#include "../philox.h"
#include "loops.h"
#include "stored.h"

namespace nnk::NNK_ISA {
namespace {

constexpr int64_t kTile = 512;

template <class T>
const T* add_bias(const FusedJob& job, const T* x, int64_t row, int64_t col, T* tile, int64_t count) {
  if (!job.bias) return x;
  const T* bias = static_cast<const T*>(job.bias);
  if (job.along == Along::cols) {
    for (int64_t i = 0; i < count; ++i) tile[i] = x[i] + bias[col + i];
  } else {
    const T shift = bias[row % job.channels];
    for (int64_t i = 0; i < count; ++i) tile[i] = x[i] + shift;
  }
  return tile;
}

// The random words of a piece of a row, of elements of type S; a row begins at a multiple of eight numbers.
template <class S>
void draw(const FusedJob& job, int64_t row, int64_t col, uint32_t* words, int64_t count) {
  const int64_t number = row * ((job.cols + 7) / 8 * 8) + col;
  if (sizeof(S) == 2) return philox_of_halves(job.seed, number / 8, (count + 7) / 8, words);
  philox(job.seed, number / kPhiloxWords, (count + kPhiloxWords - 1) / kPhiloxWords, words);
}

template <class S>
void forward(const FusedJob& job, int64_t row, int64_t col, int64_t count) {
  using T = typename Stored<S>::T;
  alignas(64) T first[kTile], second[kTile];
  alignas(64) uint32_t words[kTile];
  const int64_t at = row * job.cols + col;
  const T* z = add_bias(job, read<S>(job.x, at, first, count), row, col, first, count);
  T* y = place<S>(job.out, at, second);
  void* const data[] = {const_cast<T*>(z), y};
  forward_loop(job.activation, Stored<S>::arithmetic)(job.a, job.b, data, count);
  if (job.drops) {
    const T scale = T(job.scale);
    draw<S>(job, row, col, words, count);
    for (int64_t i = 0; i < count; ++i) y[i] *= words[i] >= job.threshold ? scale : T(0);
  }
  if (job.residual) {
    const T* residual = read<S>(job.residual, at, first, count);
    for (int64_t i = 0; i < count; ++i) y[i] += residual[i];
  }
  write<S>(y, job.out, at, count);
}

template <class S>
void backward(const FusedJob& job, int64_t row, int64_t col, int64_t count) {
  using T = typename Stored<S>::T;
  alignas(64) T first[kTile], second[kTile], third[kTile];
  alignas(64) uint32_t words[kTile];
  const int64_t at = row * job.cols + col;
  const T* grad = read<S>(job.grad, at, first, count);
  if (job.drops) {
    const T scale = T(job.scale);
    draw<S>(job, row, col, words, count);
    for (int64_t i = 0; i < count; ++i) first[i] = grad[i] * (words[i] >= job.threshold ? scale : T(0));
    grad = first;
  }
  T* grad_x = place<S>(job.out, at, third);
  if (job.x) {
    const T* z = add_bias(job, read<S>(job.x, at, second, count), row, col, second, count);
    void* const data[] = {const_cast<T*>(grad), const_cast<T*>(z), grad_x};
    backward_loop(job.activation, Stored<S>::arithmetic)(job.a, job.b, data, count);
  } else {
    memcpy(grad_x, grad, sizeof(T) * count);
  }
  if (job.sums && job.along == Along::cols) {
    T* sums = static_cast<T*>(job.sums) + row / kFusedChunk * job.cols + col;
    const bool starts = row % kFusedChunk == 0;
    for (int64_t i = 0; i < count; ++i) sums[i] = starts ? grad_x[i] : sums[i] + grad_x[i];
  } else if (job.sums) {
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; ++i) sum += grad_x[i];
    T* sums = static_cast<T*>(job.sums);
    sums[row] = col == 0 ? sum : sums[row] + sum;
  }
  write<S>(grad_x, job.out, at, count);
}

template <class S>
void run_rows(const FusedJob& job, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t col = 0; col < job.cols; col += kTile) {
      const int64_t count = job.cols - col < kTile ? job.cols - col : kTile;
      if (job.backward) {
        backward<S>(job, row, col, count);
      } else {
        forward<S>(job, row, col, count);
      }
    }
  }
}

}  // namespace

void fused(const FusedJob& job, int64_t begin, int64_t end) {
  switch (job.scalar) {
    case Scalar::f64: return run_rows<double>(job, begin, end);
    case Scalar::f32: return run_rows<float>(job, begin, end);
    case Scalar::bf16: return run_rows<BFloat16>(job, begin, end);
    case Scalar::f16: return run_rows<Half>(job, begin, end);
  }
}

}  // namespace nnk::NNK_ISA
