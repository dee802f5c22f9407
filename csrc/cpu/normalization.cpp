// A row stays in the first-level cache while it is summed and normalised; the family's own loops give the activation.
// Sums run in the computing type within a tile, in double over the tiles. What is summed is the distance from a number
// close to the mean, so that a mean much larger than the spread costs no digits.
#include "normalization.h"

#include <cmath>
#include <new>
#include <type_traits>

#include "stored.h"

namespace nnk::NNK_ISA {
namespace {

constexpr int64_t kTile = 512;

// What a row's statistics are kept in.
template <class S>
using KeptFor = std::conditional_t<sizeof(S) == 2, float, double>;

template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count) : data_(static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(64)))) {}
  ~Scratch() { ::operator delete(data_, std::align_val_t(64)); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  operator T*() const { return data_; }

 private:
  T* data_;
};

// A number for each column and the offset, or, where none are given, one that changes nothing.
template <class T>
class Columns {
 public:
  Columns(const void* given, int64_t count, T otherwise, T offset = 0)
      : own_(given && offset == T(0) ? 0 : count),
        data_(given && offset == T(0) ? static_cast<const T*>(given) : own_) {
    if (data_ != own_) return;
    const T* numbers = static_cast<const T*>(given);
    for (int64_t i = 0; i < count; ++i) own_[i] = numbers ? numbers[i] + offset : otherwise;
  }
  operator const T*() const { return data_; }

 private:
  Scratch<T> own_;
  const T* data_;
};

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Puts numbers where they belong, unless they are there.
template <class S, class T>
void settle(const T* tile, void* to, int64_t at, int64_t count) {
  if (static_cast<const void*>(tile) != static_cast<S*>(to) + at) put<S>(tile, to, at, count);
}

struct Sums {
  double first = 0, second = 0;
};

// Two sums over a tile, to which `terms` adds what place i contributes; two places at a time, whose additions need not
// wait for each other.
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

template <class T>
Sums distances(const T* x, int64_t count, T from) {
  Sums sums;
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const Sums tile = add_up<T>(begin, least(begin + kTile, count), [x, from](int64_t i, T& a, T& b) {
      const T d = x[i] - from;
      a += d;
      b += d * d;
    });
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
Statistics<T> statistics_of(const RowNormJob& job, const T* x) {
  constexpr int64_t kSample = 64;
  constexpr int kMostPasses = 3;
  const double count = double(job.cols);
  const int64_t sample = least(kSample, job.cols);
  T mean = job.centred ? T(distances(x, sample, T(0)).first / double(sample)) : T(0);
  double low = 0, square = 0;
  for (int pass = 0; pass < kMostPasses; ++pass) {
    const Sums sums = distances(x, job.cols, mean);
    low = job.centred ? sums.first / count : 0;
    square = sums.second / count - low * low;
    // So close to the mean, the difference costs none of the sum's digits.
    if (!(low * low > square / 4)) break;
    if (pass + 1 < kMostPasses) mean = T(double(mean) + low);
  }
  return {mean, T(low), T(1 / std::sqrt((square < 0 ? 0 : square) + job.eps))};
}

template <class Kept, class T>
void keep(const RowNormJob& job, int64_t row, const Statistics<T>& found) {
  Kept* kept = static_cast<Kept*>(job.statistics);
  if (job.centred) {
    kept[row] = Kept(double(found.mean) + double(found.mean_low));
    kept += job.rows;
  }
  kept[row] = Kept(found.scale);
}

template <class Kept, class T>
Statistics<T> kept(const RowNormJob& job, int64_t row) {
  const Kept* kept = static_cast<const Kept*>(job.statistics);
  if (!job.centred) return {T(0), T(0), T(kept[row])};
  const T mean = T(kept[row]);
  return {mean, T(kept[row] - Kept(mean)), T(kept[job.rows + row])};
}

template <class T>
T normalised(T x, const Statistics<T>& of) {
  return ((x - of.mean) - of.mean_low) * of.scale;
}

// y f(residual), f being what `loop` computes.
template <class S, class T>
void multiply_by_gate(const RowNormJob& job, Loop loop, int64_t row, int64_t col, T* y, T* tile, int64_t count) {
  const T* gate = read<S>(job.residual, row * job.residual_stride + col, tile, count);
  alignas(64) T factor[kTile];
  void* const data[] = {const_cast<T*>(gate), factor};
  loop(job.a, job.b, data, count);
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) y[i] *= factor[i];
}

template <class S, class T>
void add_residual(const RowNormJob& job, int64_t row, int64_t col, T* z, T* tile, int64_t count) {
  if (!job.residual) return;
  const T* residual = read<S>(job.residual, row * job.residual_stride + col, tile, count);
  for (int64_t i = 0; i < count; ++i) z[i] += residual[i];
}

// A row's two operands, each of a type of its own, become the row, rounded.
template <class S, class T>
void add_rows(const RowNormJob& job, int64_t row, T* first, T* second) {
  void* sums = const_cast<void*>(job.x);
  for (int64_t col = 0; col < job.cols; col += kTile) {
    const int64_t count = least(kTile, job.cols - col), at = row * job.x_stride + col;
    const T* x = read(job.first, row * job.first_stride + col, first, count);
    const T* addend = read(job.addend, row * job.addend_stride + col, second, count);
    T* sum = place<S>(sums, at, first);
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) sum[i] = x[i] + addend[i];
    settle<S>(sum, sums, at, count);
  }
}

// f(gate) of a row, and the row's products with it.
template <class S, class T>
void gate_row(const RowNormJob& job, Loop loop, int64_t row, T* factor, T* product, T* tile) {
  for (int64_t col = 0; col < job.cols; col += kTile) {
    const int64_t count = least(kTile, job.cols - col);
    const T* gate = read<S>(job.residual, row * job.residual_stride + col, tile, count);
    void* const data[] = {const_cast<T*>(gate), factor + col};
    loop(job.a, job.b, data, count);
    const T* x = read<S>(job.x, row * job.x_stride + col, tile, count);
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) product[col + i] = x[i] * factor[col + i];
  }
}

template <class S>
void forward_rows(const RowNormJob& job, int64_t begin, int64_t end) {
  using T = typename Stored<S>::T;
  const Loop loop = forward_loop(job.activation, Stored<S>::arithmetic);
  const Columns<T> weights(job.weight, job.cols, T(1), T(job.offset)), biases(job.bias, job.cols, T(-0.0));
  const bool gates_x = job.gates == GateAt::before;
  const Scratch<T> wide(sizeof(S) == sizeof(T) && !gates_x ? 0 : job.cols), factors(gates_x ? job.cols : 0);
  alignas(64) T first[kTile], second[kTile];
  for (int64_t row = begin; row < end; ++row) {
    if (job.addend) add_rows<S>(job, row, first, second);
    const T* x_row = wide;
    if (gates_x) {
      gate_row<S, T>(job, loop, row, factors, wide, first);
    } else {
      x_row = read<S>(job.x, row * job.x_stride, static_cast<T*>(wide), job.cols);
    }
    const Statistics<T> of = statistics_of(job, x_row);
    keep<KeptFor<S>>(job, row, of);
    for (int64_t col = 0; col < job.cols; col += kTile) {
      const int64_t count = least(kTile, job.cols - col), at = row * job.cols + col;
      const T *x = x_row + col, *weight = weights + col, *bias = biases + col;
      T* y = place<S>(job.out, at, first);
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) y[i] = normalised(x[i], of) * weight[i] + bias[i];
      if (job.gates == GateAt::after) {
        multiply_by_gate<S>(job, loop, row, col, y, second, count);
      } else if (!gates_x) {
        add_residual<S>(job, row, col, y, second, count);
        void* const data[] = {y, y};
        if (!job.linear) loop(job.a, job.b, data, count);
      }
      settle<S>(y, job.out, at, count);
    }
  }
}

template <class S>
void backward_rows(const RowNormJob& job, int64_t begin, int64_t end) {
  using T = typename Stored<S>::T;
  const Loop loop = backward_loop(job.activation, Stored<S>::arithmetic);
  const Loop value_loop = forward_loop(job.activation, Stored<S>::arithmetic);
  const bool gates_x = job.gates == GateAt::before, linear = job.linear || gates_x;
  const Scratch<T> products(gates_x ? job.cols : 0), factors(gates_x ? job.cols : 0);
  const Columns<T> weights(job.weight, job.cols, T(1), T(job.offset)), biases(job.bias, job.cols, T(-0.0));
  const Scratch<T> grad_row(job.cols), unwanted(2 * job.cols);
  alignas(64) T first[kTile], second[kTile], third[kTile], fourth[kTile];
  const int64_t chunk = norm_chunk(job.rows);
  const auto sums_of = [&](void* all, int64_t row, T* otherwise) {
    T* sums = all ? static_cast<T*>(all) + row / chunk * job.cols : otherwise;
    if (row % chunk == 0) memset(sums, 0, sizeof(T) * job.cols);
    return sums;
  };
  for (int64_t row = begin; row < end; ++row) {
    const Statistics<T> of = kept<KeptFor<S>, T>(job, row);
    T* weight_sums = sums_of(job.for_weight, row, unwanted);
    T* bias_sums = sums_of(job.for_bias, row, unwanted + job.cols);
    Sums sums;
    if (gates_x) gate_row<S, T>(job, value_loop, row, factors, products, first);
    const auto x_at = [&](int64_t col, int64_t count) {
      if (gates_x) return static_cast<const T*>(products + col);
      return read<S>(job.x, row * job.x_stride + col, static_cast<T*>(first), count);
    };
    // Of the activation's argument, where there is an activation behind the norm.
    const auto grad_at = [&](int64_t col, int64_t count) {
      if (linear) return read<S>(job.grad, row * job.grad_stride + col, grad_row + col, count);
      return static_cast<const T*>(grad_row + col);
    };
    for (int64_t col = 0; col < job.cols; col += kTile) {
      const int64_t count = least(kTile, job.cols - col);
      const T *x = x_at(col, count), *weight = weights + col, *bias = biases + col;
      if (!linear) {
#pragma GCC ivdep
        for (int64_t i = 0; i < count; ++i) second[i] = normalised(x[i], of) * weight[i] + bias[i];
        if (job.gates == GateAt::nowhere) add_residual<S>(job, row, col, second, third, count);
        const T* given = read<S>(job.grad, row * job.grad_stride + col, third, count);
        T* for_residual = grad_row + col;
        if (job.gates == GateAt::after) {
          memcpy(grad_row + col, given, sizeof(T) * count);
          multiply_by_gate<S>(job, value_loop, row, col, grad_row + col, fourth, count);
          for (int64_t i = 0; i < count; ++i) second[i] *= given[i];
          const T* gate = read<S>(job.residual, row * job.residual_stride + col, fourth, count);
          for_residual = second;
          void* const data[] = {second, const_cast<T*>(gate), second};
          loop(job.a, job.b, data, count);
        } else {
          void* const data[] = {const_cast<T*>(given), second, grad_row + col};
          loop(job.a, job.b, data, count);
        }
        if (job.for_residual) settle<S>(for_residual, job.for_residual, row * job.cols + col, count);
      }
      const T* grad = grad_at(col, count);
      T *for_weight = weight_sums + col, *for_bias = bias_sums + col;
      const Sums tile = add_up<T>(0, count, [=](int64_t i, T& a, T& b) {
        const T z = normalised(x[i], of), weighted = grad[i] * weight[i];
        for_weight[i] += grad[i] * z;
        for_bias[i] += grad[i];
        a += weighted;
        b += weighted * z;
      });
      sums.first += tile.first;
      sums.second += tile.second;
    }
    const T total = job.centred ? T(sums.first / double(job.cols)) : T(0), along = T(sums.second / double(job.cols));
    for (int64_t col = 0; col < job.cols; col += kTile) {
      const int64_t count = least(kTile, job.cols - col), at = row * job.cols + col;
      const T *x = x_at(col, count), *grad = grad_at(col, count), *weight = weights + col;
      T* grad_x = place<S>(job.out, at, second);
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) {
        grad_x[i] = (grad[i] * weight[i] - normalised(x[i], of) * along - total) * of.scale;
      }
      if (gates_x) {
        if (job.for_residual) {
          const T* given = read<S>(job.x, row * job.x_stride + col, third, count);
          for (int64_t i = 0; i < count; ++i) third[i] = grad_x[i] * given[i];
          const T* gate = read<S>(job.residual, row * job.residual_stride + col, fourth, count);
          void* const data[] = {third, const_cast<T*>(gate), third};
          loop(job.a, job.b, data, count);
          settle<S>(static_cast<const T*>(third), job.for_residual, at, count);
        }
        for (int64_t i = 0; i < count; ++i) grad_x[i] *= factors[col + i];
      }
      if (job.addend) {
        const T* more = read(job.addend, row * job.addend_stride + col, third, count);
        for (int64_t i = 0; i < count; ++i) grad_x[i] += more[i];
      }
      if (job.narrowed) put(grad_x, job.narrowed, at, count);
      settle<S>(grad_x, job.out, at, count);
    }
  }
}

template <class S>
void run_rows(const RowNormJob& job, int64_t begin, int64_t end) {
  if (job.backward) {
    backward_rows<S>(job, begin, end);
  } else {
    forward_rows<S>(job, begin, end);
  }
}

}  // namespace

void row_norm(const RowNormJob& job, int64_t begin, int64_t end) {
  switch (job.scalar) {
    case Scalar::f64: return run_rows<double>(job, begin, end);
    case Scalar::f32: return run_rows<float>(job, begin, end);
    case Scalar::bf16: return run_rows<BFloat16>(job, begin, end);
    case Scalar::f16: return run_rows<Half>(job, begin, end);
  }
}

}  // namespace nnk::NNK_ISA
