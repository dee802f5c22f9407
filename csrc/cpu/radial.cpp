// Rows pass by in groups, centers in blocks, both transposed: a vector holds one feature of as many centers, and sums
// over features stay in registers. What a group and a block make together stays in the first-level cache.
#include "radial.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "../exponentials.h"
#include "stored.h"

namespace nnk::NNK_ISA {
namespace {

constexpr int64_t kBlock = 128, kGroup = 8, kLanes = 16;  // centers, rows, and centers at once

template <class S>
struct Policy {
  using M = Fast;
};
template <>
struct Policy<float> {
  using M = Single;
};
template <>
struct Policy<double> {
  using M = Double;
};

// Some rows of a matrix as a feature after the other, `kWidth` numbers for each; those behind the last row repeat it.
template <class S, int64_t kWidth>
class Transposed {
 public:
  using T = typename Policy<S>::M::T;

  explicit Transposed(int64_t features) : features_(features), row_(features), numbers_(features * kWidth) {}

  void load(const void* matrix, int64_t first, int64_t rows) {
    count = rows;
    for (int64_t i = 0; i < kWidth; ++i) {
      const int64_t row = first + std::min(i, rows - 1);
      const T* from = read<S>(matrix, row * features_, row_.data(), features_);
      for (int64_t k = 0; k < features_; ++k) numbers_[k * kWidth + i] = from[k];
    }
  }

  const T* feature(int64_t k) const { return numbers_.data() + k * kWidth; }

  int64_t count = 0;

 private:
  int64_t features_;
  std::vector<T> row_, numbers_;
};

template <class T>
using Together = T[kGroup][kBlock];

template <class M, class T>
void decay(const T* gamma, const T* apart, T* y, int64_t count) {
#pragma GCC ivdep
  for (int64_t j = 0; j < count; ++j) y[j] = Exponential<M>(-underflowing_product(gamma[j], apart[j])).value();
}

template <class S>
struct Pass {
  using M = typename Policy<S>::M;
  using T = typename M::T;

  const RadialJob& job;
  Transposed<S, kGroup> x{job.features};
  Transposed<S, kBlock> centers{job.features};
  int64_t lanes = 0;  // of a block, in whole vectors
  alignas(64) T gamma[kBlock] = {};
  alignas(64) Together<T> apart = {}, y = {};

  // body(first center, first row) for each group of rows [begin, end) with each block of centers, then done(center).
  template <class Body, class Done>
  void run(int64_t begin, int64_t end, Body body, Done done) {
    for (int64_t first = 0; first < job.centers; first += kBlock) {
      centers.load(job.positions, first, std::min(kBlock, job.centers - first));
      lanes = (centers.count + kLanes - 1) / kLanes * kLanes;
      for (int64_t j = 0; j < lanes; ++j) gamma[j] = gamma_of(first + std::min(j, centers.count - 1));
      for (int64_t row = begin; row < end; row += kGroup) {
        x.load(job.x, row, std::min(kGroup, end - row));
        respond();
        body(first, row);
      }
      done(first);
    }
  }

 private:
  // NaN instead of a negative one, and so is what comes of it.
  T gamma_of(int64_t center) const {
    T room = static_cast<T>(job.constant);
    const T own = job.gamma ? *read<S>(job.gamma, job.gamma_step * center, &room, 1) : room;
    return own < T(0) ? T(__builtin_nanf("")) : own;
  }

  // |x - c|^2 and exp(-gamma |x - c|^2).
  void respond() {
    for (int64_t first = 0; first < lanes; first += kLanes) {
      T sums[kGroup][kLanes] = {};
      for (int64_t k = 0; k < job.features; ++k) {
        const T *at = x.feature(k), *center = centers.feature(k) + first;
        for (int64_t r = 0; r < kGroup; ++r) {
#pragma omp simd
          for (int64_t j = 0; j < kLanes; ++j) {
            const T difference = at[r] - center[j];
            sums[r][j] = madd(difference, difference, sums[r][j]);
          }
        }
      }
      for (int64_t r = 0; r < kGroup; ++r) std::copy_n(sums[r], kLanes, apart[r] + first);
    }
    for (int64_t r = 0; r < x.count; ++r) decay<M>(gamma, apart[r], y[r], lanes);
  }
};

// With `pulls` = 2 gamma grad y, the sums of pull (x - c): over the rows of a group, which join those for the centers,
// and over a block of centers, which leave those for x.
template <class T>
void pull(int64_t features, int64_t lanes, const T* x, const T* centers, const Together<T>& pulls, T* for_centers,
          T* for_x) {
  for (int64_t k = 0; k < features; ++k, x += kGroup, centers += kBlock, for_centers += kBlock, for_x += kGroup) {
    T sums[kGroup][kLanes] = {};
    for (int64_t first = 0; first < lanes; first += kLanes) {
      const T* center = centers + first;
      T over_rows[kLanes];
      std::copy_n(for_centers + first, kLanes, over_rows);
      for (int64_t r = 0; r < kGroup; ++r) {
#pragma omp simd
        for (int64_t j = 0; j < kLanes; ++j) {
          const T pulled = pulls[r][first + j] * (x[r] - center[j]);
          over_rows[j] += pulled;
          sums[r][j] += pulled;
        }
      }
      std::copy_n(over_rows, kLanes, for_centers + first);
    }
    for (int64_t r = 0; r < kGroup; ++r) {
      for (int64_t half = kLanes / 2; half > 0; half /= 2) {
        for (int64_t j = 0; j < half; ++j) sums[r][j] += sums[r][half + j];
      }
      for_x[r] = -sums[r][0];
    }
  }
}

template <class S>
void forward(const RadialJob& job, int64_t begin, int64_t end) {
  Pass<S> pass{job};
  const auto write = [&](int64_t first, int64_t row) {
    for (int64_t r = 0; r < pass.x.count; ++r) {
      put<S>(pass.y[r], job.y, (row + r) * job.centers + first, pass.centers.count);
    }
  };
  pass.run(begin, end, write, [](int64_t) {});
}

// The gradients of one part of the rows. With w = grad y, that of gamma is -w |x - c|^2.
template <class S>
void backward(const RadialJob& job, int64_t part) {
  using T = typename Pass<S>::T;
  const int64_t begin = job.rows * part / job.parts, end = job.rows * (part + 1) / job.parts;
  const int64_t features = job.features;
  Pass<S> pass{job};
  std::vector<T> for_x(job.grad_x ? (end - begin) * features : 0), group(features * kGroup);
  std::vector<T> for_centers(features * kBlock);
  alignas(64) T for_gamma[kBlock] = {}, grads[kBlock] = {};

  const auto add = [&](int64_t first, int64_t row) {
    const int64_t count = pass.centers.count;
    for (int64_t r = 0; r < kGroup; ++r) {
      T *pulls = pass.y[r], *apart = pass.apart[r], *gamma = pass.gamma, *sums = for_gamma;
      if (r >= pass.x.count) {
        std::fill_n(pulls, kBlock, T(0));
        continue;
      }
      const T* given = read<S>(job.grad, (row + r) * job.centers + first, grads, count);
#pragma omp simd
      for (int64_t j = 0; j < count; ++j) {
        const T w = given[j] * pulls[j];
        sums[j] -= w * apart[j];
        pulls[j] = T(2) * gamma[j] * w;
      }
      std::fill(pulls + count, pulls + kBlock, T(0));
    }
    pull(features, pass.lanes, pass.x.feature(0), pass.centers.feature(0), pass.y, for_centers.data(), group.data());
    if (!job.grad_x) return;
    T* to = for_x.data() + (row - begin) * features;
    for (int64_t r = 0; r < pass.x.count; ++r) {
      for (int64_t k = 0; k < features; ++k) to[r * features + k] += group[k * kGroup + r];
    }
  };
  const auto hand_over = [&](int64_t first) {
    const int64_t at = part * job.centers + first, count = pass.centers.count;
    if (job.grad_positions) {
      T* to = static_cast<T*>(job.part_positions) + at * features;
      for (int64_t j = 0; j < count; ++j) {
        for (int64_t k = 0; k < features; ++k) to[j * features + k] = for_centers[k * kBlock + j];
      }
    }
    if (job.grad_gamma) std::copy_n(for_gamma, count, static_cast<T*>(job.part_gamma) + at);
    std::fill(for_centers.begin(), for_centers.end(), T(0));
    std::fill_n(for_gamma, kBlock, T(0));
  };
  pass.run(begin, end, add, hand_over);
  if (job.grad_x) put<S>(for_x.data(), job.grad_x, begin * features, (end - begin) * features);
}

template <class S>
void backward_parts(const RadialJob& job, int64_t begin, int64_t end) {
  for (int64_t part = begin; part < end; ++part) backward<S>(job, part);
}

// The sums of `count` numbers of all parts into the first part's.
template <class T>
T* total(void* parts, int64_t count, int64_t number) {
  T* sums = static_cast<T*>(parts);
  for (int64_t part = 1; part < number; ++part) {
    const T* more = sums + part * count;
    for (int64_t i = 0; i < count; ++i) sums[i] += more[i];
  }
  return sums;
}

template <class S>
void total(const RadialJob& job) {
  using T = typename Pass<S>::T;
  if (job.grad_positions) {
    const int64_t count = job.centers * job.features;
    put<S>(total<T>(job.part_positions, count, job.parts), job.grad_positions, 0, count);
  }
  if (job.grad_gamma) {
    T* sums = total<T>(job.part_gamma, job.centers, job.parts);
    if (job.gamma_step == 0) sums[0] = std::accumulate(sums, sums + job.centers, T(0));
    put<S>(sums, job.grad_gamma, 0, job.gamma_step == 0 ? 1 : job.centers);
  }
}

}  // namespace

void gaussians(const RadialJob& job, int64_t begin, int64_t end) {
  switch (job.scalar) {
    case Scalar::f64: return forward<double>(job, begin, end);
    case Scalar::f32: return forward<float>(job, begin, end);
    case Scalar::bf16: return forward<BFloat16>(job, begin, end);
    case Scalar::f16: return forward<Half>(job, begin, end);
  }
}

void gaussians_backward(const RadialJob& job, int64_t begin, int64_t end) {
  switch (job.scalar) {
    case Scalar::f64: return backward_parts<double>(job, begin, end);
    case Scalar::f32: return backward_parts<float>(job, begin, end);
    case Scalar::bf16: return backward_parts<BFloat16>(job, begin, end);
    case Scalar::f16: return backward_parts<Half>(job, begin, end);
  }
}

void gaussians_total(const RadialJob& job) {
  switch (job.scalar) {
    case Scalar::f64: return total<double>(job);
    case Scalar::f32: return total<float>(job);
    case Scalar::bf16: return total<BFloat16>(job);
    case Scalar::f16: return total<Half>(job);
  }
}

}  // namespace nnk::NNK_ISA
