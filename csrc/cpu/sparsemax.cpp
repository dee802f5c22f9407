// Only logits within 1 of a row's maximum can be in its support: they are gathered once, block by block of which most
// hold none, and Newton's steps look at nothing else. Why thresholds and logits are held in two parts, and why the
// steps end, is told in nnkernels/contracts/sparsemax.py.
#include "sparsemax.h"

#include <limits>
#include <memory>
#include <type_traits>

#include "convert.h"

namespace nnk::NNK_ISA {
namespace {

constexpr int64_t kBlock = 32;   // logits that are passed over together
constexpr int64_t kLines = 16;   // rows side by side that are read together
constexpr int64_t kStrip = 128;  // the same in backward, which holds none of them
constexpr double kGrid = 0x1.8p30, kMargin = 0x1p-20, kLeastHalf = 0x1p-24;

// A number in (-4, 4) as a multiple of 2^-22, of which sums are exact; the rest is the difference.
inline double coarse_of(double x) { return (x + kGrid) - kGrid; }

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

template <class S>
S as_stored(double x) {
  using T = decltype(number(S()));
  if constexpr (std::is_same_v<S, Half>) x = x < kLeastHalf ? kLeastHalf : x;
  return stored(static_cast<T>(x), S());
}

// Rows of logits, one after the other, through memory of its own.
template <class S>
class Projection {
 public:
  using T = decltype(number(S()));

  explicit Projection(int64_t size) : size_(size), near_(new double[size]), at_(new int64_t[size]) {}

  // Writes what is not 0; `out` holds zeros, `inner` apart.
  void write(const T* logits, S* out, int64_t inner) {
    T top = -std::numeric_limits<T>::infinity();
    int64_t wrong = 0;
#pragma omp simd reduction(max : top) reduction(+ : wrong)
    for (int64_t i = 0; i < size_; ++i) {
      top = logits[i] > top ? logits[i] : top;
      wrong += logits[i] != logits[i];
    }
    if (wrong || top - top != 0) {
      for (int64_t i = 0; i < size_; ++i) out[i * inner] = stored(std::numeric_limits<T>::quiet_NaN(), S());
      return;
    }
    const T shift = top < 2 && top > -2 ? T(0) : top;
    const double lowest = static_cast<double>(top - shift) - (1 + kMargin);
    gather(logits, shift, static_cast<T>(lowest));
    const Threshold threshold = solve(lowest);
    for (int64_t i = 0; i < count_; ++i) {
      const double excess = threshold.below(near_[i], coarse_of(near_[i]));
      if (excess > 0) out[at_[i] * inner] = as_stored<S>(excess);
    }
  }

 private:
  struct Threshold {
    double coarse, fine;
    // How far a logit exceeds it.
    double below(double w, double w_coarse) const { return (w_coarse - coarse) + ((w - w_coarse) - fine); }
  };

  const int64_t size_;
  const std::unique_ptr<double[]> near_;  // shifted logits above `lowest`
  const std::unique_ptr<int64_t[]> at_;   // and where they are
  int64_t count_ = 0;

  void gather(const T* logits, T shift, T lowest) {
    double* near = near_.get();
    int64_t *at = at_.get(), count = 0;
    for (int64_t begin = 0; begin < size_; begin += kBlock) {
      const int64_t end = least(begin + kBlock, size_);
      int any = 0;
#pragma omp simd reduction(| : any)
      for (int64_t i = begin; i < end; ++i) any |= logits[i] - shift > lowest;
      if (!any) continue;
      for (int64_t i = begin; i < end; ++i) {
        const T w = logits[i] - shift;
        near[count] = w, at[count] = i;
        count += w > lowest;
      }
    }
    count_ = count;
  }

  Threshold solve(double lowest) const {
    const double* near = near_.get();
    const int64_t count = count_;
    Threshold threshold{coarse_of(lowest), lowest - coarse_of(lowest)};
    for (double before = static_cast<double>(count + 1);;) {
      double coarse = 0, fine = 0, support = 0;
#pragma omp simd reduction(+ : coarse, fine, support)
      for (int64_t i = 0; i < count; ++i) {
        const double w = near[i], part = coarse_of(w);
        const double in = threshold.below(w, part) > 0 ? 1.0 : 0.0;  // a factor: choices would be taken as branches
        coarse += in * part, fine += in * (w - part), support += in;
      }
      if (support >= before) return threshold;
      before = support;
      threshold.coarse = coarse_of((coarse - 1 + fine) / support);
      threshold.fine = ((coarse - 1 - threshold.coarse * support) + fine) / support;
    }
  }
};

template <class S>
void forward_rows(const SparsemaxJob& job, int64_t begin, int64_t end) {
  using T = typename Projection<S>::T;
  const int64_t size = job.size;
  Projection<S> projection(size);
  const std::unique_ptr<T[]> room(std::is_same_v<S, T> ? nullptr : new T[size]);
  for (int64_t row = begin; row < end; ++row) {
    const S* x = static_cast<const S*>(job.x) + row * size;
    S* out = static_cast<S*>(job.out) + row * size;
    std::memset(out, 0, size * sizeof(S));
    if constexpr (std::is_same_v<S, T>) {
      projection.write(x, out, 1);
    } else {
      widen(x, room.get(), size);
      projection.write(room.get(), out, 1);
    }
  }
}

// Of rows side by side, a few together.
template <class S>
void forward_lines(const SparsemaxJob& job, int64_t begin, int64_t end) {
  using T = typename Projection<S>::T;
  const int64_t size = job.size, inner = job.inner;
  Projection<S> projection(size);
  const std::unique_ptr<T[]> room(new T[kLines * size]);
  for (int64_t line = begin; line < end;) {
    const int64_t col = line % inner, at = line / inner * size * inner + col;
    const int64_t count = least(kLines, least(inner - col, end - line));
    const S* x = static_cast<const S*>(job.x) + at;
    S* out = static_cast<S*>(job.out) + at;
    for (int64_t k = 0; k < size; ++k) {
      for (int64_t i = 0; i < count; ++i) room[i * size + k] = number(x[k * inner + i]);
      std::memset(out + k * inner, 0, count * sizeof(S));
    }
    for (int64_t i = 0; i < count; ++i) projection.write(room.get() + i * size, out + i, inner);
    line += count;
  }
}

// The gradient on the support, NaN where the output is, 0 off it.
template <class T>
T on_support(T grad, T y) {
  return y != 0 ? grad + T(0) * y : T(0);
}

template <class S>
void backward_rows(const SparsemaxJob& job, int64_t begin, int64_t end) {
  using T = decltype(number(S()));
  const int64_t size = job.size;
  for (int64_t row = begin; row < end; ++row) {
    const S *y = static_cast<const S*>(job.x) + row * size, *grad = static_cast<const S*>(job.grad) + row * size;
    S* out = static_cast<S*>(job.out) + row * size;
    double total = 0, count = 0;
#pragma omp simd reduction(+ : total, count)
    for (int64_t i = 0; i < size; ++i) {
      total += on_support(number(grad[i]), number(y[i])), count += number(y[i]) != 0 ? 1.0 : 0.0;
    }
    const double mean = total / count;
#pragma GCC ivdep
    for (int64_t i = 0; i < size; ++i) {
      const double g = on_support(number(grad[i]), number(y[i])) - mean;
      out[i] = stored(static_cast<T>(number(y[i]) != 0 ? g : 0.0), S());
    }
  }
}

template <class S>
void backward_lines(const SparsemaxJob& job, int64_t begin, int64_t end) {
  using T = decltype(number(S()));
  const int64_t size = job.size, inner = job.inner;
  for (int64_t line = begin; line < end;) {
    const int64_t col = line % inner, at = line / inner * size * inner + col;
    const int64_t width = least(kStrip, least(inner - col, end - line));
    const S *y = static_cast<const S*>(job.x) + at, *grad = static_cast<const S*>(job.grad) + at;
    S* out = static_cast<S*>(job.out) + at;
    double mean[kStrip] = {}, count[kStrip] = {};
    for (int64_t k = 0; k < size * inner; k += inner) {
#pragma GCC ivdep
      for (int64_t i = 0; i < width; ++i) {
        const T v = number(y[k + i]);
        mean[i] += on_support(number(grad[k + i]), v), count[i] += v != 0 ? 1.0 : 0.0;
      }
    }
    for (int64_t i = 0; i < width; ++i) mean[i] /= count[i];
    for (int64_t k = 0; k < size * inner; k += inner) {
#pragma GCC ivdep
      for (int64_t i = 0; i < width; ++i) {
        const T v = number(y[k + i]);
        out[k + i] = stored(static_cast<T>(v != 0 ? on_support(number(grad[k + i]), v) - mean[i] : 0.0), S());
      }
    }
    line += width;
  }
}

template <class S, bool backward>
void of_type(const SparsemaxJob& job, int64_t begin, int64_t end) {
  if constexpr (backward) {
    (job.inner == 1 ? backward_rows<S> : backward_lines<S>)(job, begin, end);
  } else {
    (job.inner == 1 ? forward_rows<S> : forward_lines<S>)(job, begin, end);
  }
}

template <bool backward>
void of_any_type(const SparsemaxJob& job, int64_t begin, int64_t end) {
  switch (job.scalar) {
    case Scalar::f64: return of_type<double, backward>(job, begin, end);
    case Scalar::f32: return of_type<float, backward>(job, begin, end);
    case Scalar::bf16: return of_type<BFloat16, backward>(job, begin, end);
    case Scalar::f16: return of_type<Half, backward>(job, begin, end);
  }
}

}  // namespace

void sparsemax(const SparsemaxJob& job, int64_t begin, int64_t end) { of_any_type<false>(job, begin, end); }
void sparsemax_backward(const SparsemaxJob& job, int64_t begin, int64_t end) { of_any_type<true>(job, begin, end); }

}  // namespace nnk::NNK_ISA
