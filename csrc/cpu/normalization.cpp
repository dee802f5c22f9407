// A row stays in the first-level cache while it is summed and normalised; the family's own loops give the activation.
// Sums run in the computing type within a tile, in double over the tiles. The mean is taken twice: the second time of
// what the first left, so that a mean much larger than the spread costs no digits.
#include "normalization.h"

#include <cmath>
#include <cstring>
#include <new>

#include "convert.h"
#include "loops.h"

namespace nnk::NNK_ISA {
namespace {

constexpr int64_t kTile = 512;

template <class S>
struct Stored {
  using T = S;
  using Kept = double;
  static constexpr Arithmetic arithmetic = sizeof(S) == 8 ? kDouble : kSingle;
};
template <>
struct Stored<BFloat16> {
  using T = float;
  using Kept = float;
  static constexpr Arithmetic arithmetic = kFast;
};
template <>
struct Stored<Half> : Stored<BFloat16> {};

template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : data_(static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(64)))) {}
  ~Scratch() { ::operator delete(data_, std::align_val_t(64)); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  operator T*() const { return data_; }

 private:
  T* data_;
};

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Adjacent elements as numbers of the computing type: where they are, or in `to`.
template <class S, class T>
const T* read(const void* from, int64_t at, T* to, int64_t count) {
  const S* first = static_cast<const S*>(from) + at;
  if constexpr (sizeof(S) == sizeof(T)) {
    return first;
  } else {
    widen(first, to, count);
    return to;
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
  S* first = static_cast<S*>(to) + at;
  if constexpr (sizeof(S) != sizeof(T)) {
    narrow(tile, first, count);
  } else if (tile != first) {
    memcpy(first, tile, sizeof(T) * count);
  }
}

struct Sums {
  double first = 0, second = 0;
};

// The sums of f(i), g(i) over a row; two places at a time, whose additions need not wait for each other.
template <class T, class Terms>
Sums add_up(int64_t begin, int64_t end, Terms terms) {
  const int64_t half = (end - begin) / 2;
  T a = 0, b = 0, c = 0, d = 0;
#pragma omp simd reduction(+ : a, b, c, d)
  for (int64_t i = begin; i < begin + half; ++i) {
    terms(i, a, b);
    terms(i + half, c, d);
  }
  if ((end - begin) % 2) terms(end - 1, a, b);
  return {double(a) + double(c), double(b) + double(d)};
}

template <class T, class Terms>
Sums add_up_row(int64_t count, Terms terms) {
  Sums sums;
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const Sums tile = add_up<T>(begin, least(begin + kTile, count), terms);
    sums.first += tile.first;
    sums.second += tile.second;
  }
  return sums;
}

// A row's statistics; the mean in two parts.
template <class T>
struct Statistics {
  T mean, mean_low, scale;
};

template <class T>
Statistics<T> statistics_of(const NormJob& job, const T* x) {
  const double count = double(job.cols);
  T mean = 0;
  if (job.centred) {
    mean = T(add_up_row<T>(job.cols, [x](int64_t i, T& a, T&) { a += x[i]; }).first / count);
  }
  const Sums sums = add_up_row<T>(job.cols, [x, mean](int64_t i, T& a, T& b) {
    const T d = x[i] - mean;
    a += d;
    b += d * d;
  });
  const double low = job.centred ? sums.first / count : 0;
  const double square = sums.second / count - low * low;
  return {mean, T(low), T(1 / std::sqrt((square < 0 ? 0 : square) + job.eps))};
}

template <class Kept, class T>
void keep(const NormJob& job, int64_t row, const Statistics<T>& found) {
  Kept* kept = static_cast<Kept*>(job.statistics);
  if (job.centred) {
    kept[row] = Kept(double(found.mean) + double(found.mean_low));
    kept += job.rows;
  }
  kept[row] = Kept(found.scale);
}

template <class Kept, class T>
Statistics<T> kept(const NormJob& job, int64_t row) {
  const Kept* kept = static_cast<const Kept*>(job.statistics);
  if (!job.centred) return {T(0), T(0), T(kept[row])};
  const T mean = T(kept[row]);
  return {mean, T(kept[row] - Kept(mean)), T(kept[job.rows + row])};
}

template <class T>
T normalised(T x, const Statistics<T>& of) {
  return ((x - of.mean) - of.mean_low) * of.scale;
}

// z weight + bias + residual, in place.
template <class S, class T>
void affine(const NormJob& job, int64_t row, int64_t col, T* z, T* tile, int64_t count) {
  const T* weight = static_cast<const T*>(job.weight);
  const T* bias = static_cast<const T*>(job.bias);
  if (weight && bias) {
    for (int64_t i = 0; i < count; ++i) z[i] = z[i] * weight[col + i] + bias[col + i];
  } else if (weight) {
    for (int64_t i = 0; i < count; ++i) z[i] *= weight[col + i];
  } else if (bias) {
    for (int64_t i = 0; i < count; ++i) z[i] += bias[col + i];
  }
  if (job.residual) {
    const T* residual = read<S>(job.residual, row * job.residual_stride + col, tile, count);
    for (int64_t i = 0; i < count; ++i) z[i] += residual[i];
  }
}

template <class S>
void forward_rows(const NormJob& job, int64_t begin, int64_t end) {
  using T = typename Stored<S>::T;
  const Loop loop = forward_loop(job.activation, Stored<S>::arithmetic);
  const Scratch<T> wide(sizeof(S) == sizeof(T) ? 0 : job.cols);
  alignas(64) T first[kTile], second[kTile];
  for (int64_t row = begin; row < end; ++row) {
    const T* x = read<S>(job.x, row * job.x_stride, static_cast<T*>(wide), job.cols);
    const Statistics<T> of = statistics_of(job, x);
    keep<typename Stored<S>::Kept>(job, row, of);
    for (int64_t col = 0; col < job.cols; col += kTile) {
      const int64_t count = least(kTile, job.cols - col), at = row * job.cols + col;
      T* y = place<S>(job.out, at, first);
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) y[i] = normalised(x[col + i], of);
      affine<S>(job, row, col, y, second, count);
      void* const data[] = {y, y};
      if (!job.identity) loop(job.a, job.b, data, count);
      write<S>(y, job.out, at, count);
    }
  }
}

template <class S>
void backward_rows(const NormJob& job, int64_t begin, int64_t end) {
  using T = typename Stored<S>::T;
  const Loop loop = backward_loop(job.activation, Stored<S>::arithmetic);
  const T* weight = static_cast<const T*>(job.weight);
  const Scratch<T> normal_row(job.cols), grad_row(job.cols);
  alignas(64) T first[kTile], second[kTile];
  const int64_t chunk = norm_chunk(job.rows);
  for (int64_t row = begin; row < end; ++row) {
    const Statistics<T> of = kept<typename Stored<S>::Kept, T>(job, row);
    T* for_weight = job.for_weight ? static_cast<T*>(job.for_weight) + row / chunk * job.cols : nullptr;
    T* for_bias = job.for_bias ? static_cast<T*>(job.for_bias) + row / chunk * job.cols : nullptr;
    const bool starts = row % chunk == 0;
    Sums sums;
    for (int64_t col = 0; col < job.cols; col += kTile) {
      const int64_t count = least(kTile, job.cols - col);
      T* normal = normal_row + col;
      const T* x = read<S>(job.x, row * job.x_stride + col, first, count);
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) normal[i] = normalised(x[i], of);
      T* grad = grad_row + col;
      const T* given = read<S>(job.grad, row * job.grad_stride + col, grad, count);
      if (!job.identity) {
        memcpy(first, normal, sizeof(T) * count);
        affine<S>(job, row, col, first, second, count);
        void* const data[] = {const_cast<T*>(given), first, grad};
        loop(job.a, job.b, data, count);
        if (job.for_residual) write<S>(grad, job.for_residual, row * job.cols + col, count);
      } else if (given != grad) {
        memcpy(grad, given, sizeof(T) * count);
      }
      if (starts) {
        if (for_weight) memset(for_weight + col, 0, sizeof(T) * count);
        if (for_bias) memset(for_bias + col, 0, sizeof(T) * count);
      }
      if (for_weight) {
#pragma GCC ivdep
        for (int64_t i = 0; i < count; ++i) for_weight[col + i] += grad[i] * normal[i];
      }
      if (for_bias) {
#pragma GCC ivdep
        for (int64_t i = 0; i < count; ++i) for_bias[col + i] += grad[i];
      }
      if (weight) {
#pragma GCC ivdep
        for (int64_t i = 0; i < count; ++i) grad[i] *= weight[col + i];
      }
      const Sums tile = add_up<T>(0, count, [grad, normal](int64_t i, T& a, T& b) {
        a += grad[i];
        b += grad[i] * normal[i];
      });
      sums.first += tile.first;
      sums.second += tile.second;
    }
    const T total = job.centred ? T(sums.first / double(job.cols)) : T(0), along = T(sums.second / double(job.cols));
    for (int64_t col = 0; col < job.cols; col += kTile) {
      const int64_t count = least(kTile, job.cols - col), at = row * job.cols + col;
      const T *grad = grad_row + col, *normal = normal_row + col;
      T* grad_x = place<S>(job.out, at, first);
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) grad_x[i] = (grad[i] - normal[i] * along - total) * of.scale;
      write<S>(grad_x, job.out, at, count);
    }
  }
}

template <class S>
void run_rows(const NormJob& job, int64_t begin, int64_t end) {
  if (job.backward) {
    backward_rows<S>(job, begin, end);
  } else {
    forward_rows<S>(job, begin, end);
  }
}

}  // namespace

void norm(const NormJob& job, int64_t begin, int64_t end) {
  switch (job.scalar) {
    case Scalar::f64: return run_rows<double>(job, begin, end);
    case Scalar::f32: return run_rows<float>(job, begin, end);
    case Scalar::bf16: return run_rows<BFloat16>(job, begin, end);
    case Scalar::f16: return run_rows<Half>(job, begin, end);
  }
}

}  // namespace nnk::NNK_ISA
