// Gated activations in tiles that stay in the first-level cache: the family's loops, and products around them.
#include "gated.h"

#include <cstring>

#include "convert.h"
#include "loops.h"

namespace nnk::NNK_ISA {
namespace {

constexpr int64_t kTile = 512;

inline void widen(const float* from, float* to, int64_t count) { std::memcpy(to, from, count * sizeof(float)); }
inline void widen(const double* from, double* to, int64_t count) { std::memcpy(to, from, count * sizeof(double)); }
inline void narrow(const float* from, float* to, int64_t count) { std::memcpy(to, from, count * sizeof(float)); }
inline void narrow(const double* from, double* to, int64_t count) { std::memcpy(to, from, count * sizeof(double)); }

// Calls `copy(element, done, size)` for each piece of a row in [begin, begin + count).
template <class S, class Copy>
void for_each_piece(const GatedJob& job, const GatedOperand& operand, int64_t begin, int64_t count, Copy copy) {
  for (int64_t done = 0; done < count;) {
    const int64_t row = (begin + done) / job.cols, col = (begin + done) % job.cols;
    const int64_t size = count - done < job.cols - col ? count - done : job.cols - col;
    copy(static_cast<S*>(operand.data) + (row * operand.row_stride + col) * operand.step, done, size);
    done += size;
  }
}

// One operand's elements [begin, begin + count) as adjacent numbers of the compute type: in place where they are that
// already, else in a tile.
template <class S, class T>
class Tile {
 public:
  Tile(const GatedJob& job, int operand, int64_t begin, int64_t count)
      : job_(job), operand_(job.operands[operand]), begin_(begin), count_(count) {
    adjacent_ = operand_.step == 1 && begin % job.cols + count <= job.cols;
    first_ = static_cast<S*>(operand_.data) + begin / job.cols * operand_.row_stride + begin % job.cols;
  }

  const T* read() {
    if (!adjacent_) {
      S gathered[kTile];
      for_each_piece<S>(job_, operand_, begin_, count_, [&](const S* from, int64_t done, int64_t size) {
        const int64_t step = operand_.step;
        if (step == 2) {
          for (int64_t i = 0; i < size; ++i) gathered[done + i] = from[2 * i];
        } else {
          for (int64_t i = 0; i < size; ++i) gathered[done + i] = from[step * i];
        }
      });
      widen(gathered, numbers_, count_);
      return numbers_;
    }
    if constexpr (sizeof(S) == sizeof(T)) return first_;
    widen(first_, numbers_, count_);
    return numbers_;
  }

  // Where to write; `written` then puts it in its place.
  T* to_write() {
    if constexpr (sizeof(S) == sizeof(T)) {
      if (adjacent_) return first_;
    }
    return numbers_;
  }

  void written() {
    if (adjacent_) {
      if constexpr (sizeof(S) != sizeof(T)) narrow(numbers_, first_, count_);
      return;
    }
    S scattered[kTile];
    narrow(numbers_, scattered, count_);
    for_each_piece<S>(job_, operand_, begin_, count_, [&](S* to, int64_t done, int64_t size) {
      const int64_t step = operand_.step;
      if (step == 2) {
        for (int64_t i = 0; i < size; ++i) to[2 * i] = scattered[done + i];
      } else {
        for (int64_t i = 0; i < size; ++i) to[step * i] = scattered[done + i];
      }
    });
  }

 private:
  const GatedJob& job_;
  const GatedOperand& operand_;
  int64_t begin_, count_;
  bool adjacent_;
  S* first_;
  alignas(64) T numbers_[kTile];
};

// min(gate, limit) and min(max(up, -limit), limit) + offset; NaN stays.
template <class T>
struct Bounds {
  T limit, offset;
  bool active;
  alignas(64) T gate[kTile], up[kTile];

  explicit Bounds(const GatedJob& job) : limit(T(job.limit)), offset(T(job.offset)) {
    active = limit < T(__builtin_inf()) || offset != T(0);
  }

  void apply(const T*& gates, const T*& ups, int64_t count) {
    if (!active) return;
    for (int64_t i = 0; i < count; ++i) gate[i] = gates[i] > limit ? limit : gates[i];
    for (int64_t i = 0; i < count; ++i) {
      const T below = ups[i] > limit ? limit : ups[i];
      up[i] = (below < -limit ? -limit : below) + offset;
    }
    gates = gate;
    ups = up;
  }
};

template <class S, class T>
void forward(const GatedJob& job, Loop value, int64_t begin, int64_t count) {
  Tile<S, T> gates(job, 0, begin, count), ups(job, 1, begin, count), ys(job, 2, begin, count);
  const T *gate = gates.read(), *up = ups.read();
  Bounds<T> bounds(job);
  bounds.apply(gate, up, count);
  alignas(64) T values[kTile];
  void* const data[] = {const_cast<T*>(gate), values};
  value(job.a, job.b, data, count);
  T* y = ys.to_write();
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) y[i] = values[i] * up[i];
  ys.written();
}

template <class S, class T>
void backward(const GatedJob& job, Loop value, Loop times_slope, int64_t begin, int64_t count) {
  Tile<S, T> grads(job, 0, begin, count), gates(job, 1, begin, count), ups(job, 2, begin, count);
  Tile<S, T> grad_gates(job, 3, begin, count), grad_ups(job, 4, begin, count);
  const T *grad = grads.read(), *raw_gate = gates.read(), *raw_up = ups.read();
  const T *gate = raw_gate, *up = raw_up;
  Bounds<T> bounds(job);
  bounds.apply(gate, up, count);
  T *grad_gate = grad_gates.to_write(), *grad_up = grad_ups.to_write();

  alignas(64) T products[kTile], values[kTile];
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) products[i] = grad[i] * up[i];
  void* const slope_data[] = {products, const_cast<T*>(gate), grad_gate};
  times_slope(job.a, job.b, slope_data, count);
  void* const value_data[] = {const_cast<T*>(gate), values};
  value(job.a, job.b, value_data, count);
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) grad_up[i] = grad[i] * values[i];

  if (bounds.active) {
    const T limit = bounds.limit;
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      grad_gate[i] = raw_gate[i] > limit ? T(0) : grad_gate[i];
      grad_up[i] = (raw_up[i] > limit) | (raw_up[i] < -limit) ? T(0) : grad_up[i];
    }
  }
  grad_gates.written();
  grad_ups.written();
}

template <class S, class T>
void run_tiles(const GatedJob& job, Arithmetic arithmetic, int64_t begin, int64_t end) {
  const Loop value = forward_loop(job.activation, arithmetic);
  const Loop times_slope = backward_loop(job.activation, arithmetic);
  for (; begin < end; begin += kTile) {
    const int64_t count = end - begin < kTile ? end - begin : kTile;
    if (job.backward) {
      backward<S, T>(job, value, times_slope, begin, count);
    } else {
      forward<S, T>(job, value, begin, count);
    }
  }
}

}  // namespace

void gated(const GatedJob& job, int64_t begin, int64_t end) {
  switch (job.scalar) {
    case Scalar::f64: return run_tiles<double, double>(job, kDouble, begin, end);
    case Scalar::f32: return run_tiles<float, float>(job, kSingle, begin, end);
    case Scalar::bf16: return run_tiles<BFloat16, float>(job, kFast, begin, end);
    case Scalar::f16: return run_tiles<Half, float>(job, kFast, begin, end);
  }
}

}  // namespace nnk::NNK_ISA
