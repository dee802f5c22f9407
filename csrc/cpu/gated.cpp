// Gated activations in tiles that stay in the first-level cache: the family's loops, and products around them.
#include "gated.h"

#include "convert.h"
#include "pieces.h"

namespace nnk::NNK_ISA {
namespace {

constexpr int64_t kTile = 512;
constexpr double kInfinity = __builtin_inf();  // a cap that there is not

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
    if (adjacent_) {
      if constexpr (sizeof(S) == sizeof(T)) {
        return first_;
      } else {
        widen(first_, numbers_, count_);
        return numbers_;
      }
    }
    if constexpr (sizeof(S) == sizeof(T)) {
      gather(numbers_);
    } else {
      S gathered[kTile];
      gather(gathered);
      widen(gathered, numbers_, count_);
    }
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
    if constexpr (sizeof(S) == sizeof(T)) {
      if (!adjacent_) scatter(numbers_);
    } else if (adjacent_) {
      narrow(numbers_, first_, count_);
    } else {
      S scattered[kTile];
      narrow(numbers_, scattered, count_);
      scatter(scattered);
    }
  }

 private:
  void gather(S* to) const {
    for_each_piece([&](const S* from, int64_t done, int64_t size) {
      const int64_t step = operand_.step;
      if (step == 2) {
        for (int64_t i = 0; i < size; ++i) to[done + i] = from[2 * i];
      } else {
        for (int64_t i = 0; i < size; ++i) to[done + i] = from[step * i];
      }
    });
  }

  void scatter(const S* from) const {
    for_each_piece([&](S* to, int64_t done, int64_t size) {
      const int64_t step = operand_.step;
      if (step == 2) {
        for (int64_t i = 0; i < size; ++i) to[2 * i] = from[done + i];
      } else {
        for (int64_t i = 0; i < size; ++i) to[step * i] = from[done + i];
      }
    });
  }

  // Calls `copy(element, done, size)` for each piece of a row.
  template <class Copy>
  void for_each_piece(Copy copy) const {
    for (int64_t done = 0; done < count_;) {
      const int64_t row = (begin_ + done) / job_.cols, col = (begin_ + done) % job_.cols;
      const int64_t size = count_ - done < job_.cols - col ? count_ - done : job_.cols - col;
      copy(static_cast<S*>(operand_.data) + (row * operand_.row_stride + col) * operand_.step, done, size);
      done += size;
    }
  }

  const GatedJob& job_;
  const GatedOperand& operand_;
  int64_t begin_, count_;
  bool adjacent_;
  S* first_;
  alignas(64) T numbers_[kTile];
};

// min(gate, limit), unless the value is limited, and min(max(up, -limit), limit) + offset; NaN stays.
template <class T>
struct Bounds {
  T limit, offset;
  bool active, limits_value;
  alignas(64) T gate[kTile], up[kTile];

  explicit Bounds(const GatedJob& job) : limit(T(job.limit)), offset(T(job.offset)), limits_value(job.limits_value) {
    active = limit < T(__builtin_inf()) || offset != T(0);
  }

  void apply(const T*& gates, const T*& ups, int64_t count) {
    if (!active) return;
    if (!limits_value) {
      for (int64_t i = 0; i < count; ++i) gate[i] = gates[i] > limit ? limit : gates[i];
      gates = gate;
    }
    for (int64_t i = 0; i < count; ++i) {
      const T below = ups[i] > limit ? limit : ups[i];
      up[i] = (below < -limit ? -limit : below) + offset;
    }
    ups = up;
  }
};

// f(x) and f'(x) where they share an exponential and a quotient, which separate loops would take twice.
template <class T>
struct Both {
  T value, slope;
};

template <class M>
NNK_HD Both<typename M::T> both(const gelu<M>& f, typename M::T x) {
  return {f.value(x), f.d1(x)};
}

// With e = e^z and D = (1 + e)^2 the value is x e (1 + e)/D; reflected, where e = e^-z, x (1 + e)/D. Fast arithmetic
// does not reflect: there the value is x where z is large.
template <class M, class ArgumentOfX>
NNK_HD Both<typename M::T> both(const Gate<M, ArgumentOfX>& f, typename M::T x) {
  using T = typename M::T;
  const T closed = f.argument.closed(x);
  const Slope<M> slope(f.argument, x);
  const T e = slope.tail.e, q = reciprocal<M>(square_of_one_plus(e)), ratio = closed * ((T(1) + e) * q);
  const T below = slope.tail.times(ratio * ArgumentOfX::weight), d1 = slope.from(slope.tail.times(slope.bracket * q));
  if constexpr (M::precise) return {slope.reflected ? ratio : below, d1};
  return {e > T(1e17) ? closed : below, d1};
}

template <class M>
NNK_HD Both<typename M::T> both(const sigmoid<M>&, typename M::T x) {
  using T = typename M::T;
  const Logistic<M> s(x);
  const T q = reciprocal<M>(square_of_one_plus(s.e));
  const T value = (T(1) + s.e) * q, value_tail = s.tail.times(value);
  return {s.positive ? value : value_tail, s.tail.times(q)};
}

// `data` holds grad, gate, up, grad_gate and grad_up.
template <template <class> class Activation, class M>
void both_gradients(double a, double b, void* const* data, int64_t count) {
  using T = typename M::T;
  const Activation<M> f(a, b);
  const T *grad = static_cast<const T*>(data[0]), *gate = static_cast<const T*>(data[1]);
  const T* up = static_cast<const T*>(data[2]);
  T *grad_gate = static_cast<T*>(data[3]), *grad_up = static_cast<T*>(data[4]);
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const Both<T> y = both(f, gate[i]);
    const T g = grad[i];
    grad_gate[i] = g * up[i] * y.slope;
    grad_up[i] = g * y.value;
  }
}

#define NNK_INDEX(name) index_of_##name,
enum Index { NNK_ACTIVATIONS(NNK_INDEX) };

// Null where value and slope, each from its own pieces, cost less.
template <template <class> class Activation, class M>
constexpr Loop shared_loop() {
  if constexpr (is_cut<M>(Cuts<Activation>::value)) return nullptr;
  return both_gradients<Activation, M>;
}

// The loop for both gradients of the usual gates, or null.
Loop both_gradients_loop(int activation, Arithmetic arithmetic) {
#define NNK_BOTH(name)                                                                                              \
  case index_of_##name: {                                                                                           \
    constexpr Loop loops[] = {shared_loop<name, Double>(), shared_loop<name, Single>(), shared_loop<name, Fast>()}; \
    return loops[arithmetic];                                                                                       \
  }
  switch (activation) {
    NNK_BOTH(sigmoid)
    NNK_BOTH(silu)
    NNK_BOTH(swish)
    NNK_BOTH(gelu)
    NNK_BOTH(gelu_tanh)
    NNK_BOTH(gelu_sigmoid)
    default: return nullptr;
  }
}

// y = cap tanh(x / cap)
template <class T>
void softcapped(double cap, Arithmetic arithmetic, const T* x, T* y, int64_t count) {
  void* const data[] = {const_cast<T*>(x), y};
  forward_loop(index_of_softcap, arithmetic)(cap, 0, data, count);
}

// y = grad (1 - tanh(x / cap)^2)
template <class T>
void softcap_gradient(double cap, Arithmetic arithmetic, const T* grad, const T* x, T* y, int64_t count) {
  void* const data[] = {const_cast<T*>(grad), const_cast<T*>(x), y};
  backward_loop(index_of_softcap, arithmetic)(cap, 0, data, count);
}

// Turns grad_gate, so far grad up f'(gate), and values, so far f(gate), to those of f(gate) softcap(gate).
template <class T>
void cap_gate(const GatedJob& job, Arithmetic arithmetic, const T* gate, const T* products, T* values, T* grad_gate,
              int64_t count) {
  alignas(64) T capped[kTile], slopes[kTile];
  softcapped(job.gate_cap, arithmetic, gate, capped, count);
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    grad_gate[i] *= capped[i];
    slopes[i] = products[i] * values[i], values[i] *= capped[i];
  }
  softcap_gradient(job.gate_cap, arithmetic, slopes, gate, slopes, count);
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) grad_gate[i] += slopes[i];
}

// Both gradients of any other gate, and of one that is limited or capped, from the loops of value and slope.
template <class T>
void separate_gradients(const GatedJob& job, Arithmetic arithmetic, void* const* data, int64_t count) {
  const T *grad = static_cast<const T*>(data[0]), *up = static_cast<const T*>(data[2]);
  T* grad_up = static_cast<T*>(data[4]);
  alignas(64) T products[kTile], values[kTile];
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) products[i] = grad[i] * up[i];
  void* const slope_data[] = {products, data[1], data[3]};
  backward_loop(job.activation, arithmetic)(job.a, job.b, slope_data, count);
  void* const value_data[] = {data[1], values};
  forward_loop(job.activation, arithmetic)(job.a, job.b, value_data, count);
  if (job.limits_value) {
    const T limit = T(job.limit);
    T* grad_gate = static_cast<T*>(data[3]);
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      grad_gate[i] = values[i] > limit ? T(0) : grad_gate[i];
      values[i] = at_most(values[i], limit);
    }
  }
  if (job.gate_cap < kInfinity) {
    cap_gate(job, arithmetic, static_cast<const T*>(data[1]), products, values, static_cast<T*>(data[3]), count);
  }
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) grad_up[i] = grad[i] * values[i];
}

template <class S, class T>
void forward(const GatedJob& job, Arithmetic arithmetic, int64_t begin, int64_t count) {
  Tile<S, T> gates(job, 0, begin, count), ups(job, 1, begin, count), ys(job, 2, begin, count);
  const T *gate = gates.read(), *up = ups.read();
  Bounds<T> bounds(job);
  bounds.apply(gate, up, count);
  alignas(64) T values[kTile];
  void* const data[] = {const_cast<T*>(gate), values};
  forward_loop(job.activation, arithmetic)(job.a, job.b, data, count);
  if (job.limits_value) {
    for (int64_t i = 0; i < count; ++i) values[i] = at_most(values[i], bounds.limit);
  }
  alignas(64) T capped[kTile];
  if (job.gate_cap < kInfinity) {
    softcapped(job.gate_cap, arithmetic, gate, capped, count);
    for (int64_t i = 0; i < count; ++i) values[i] *= capped[i];
  }
  if (job.up_cap < kInfinity) {
    softcapped(job.up_cap, arithmetic, up, capped, count);
    up = capped;
  }
  T* y = ys.to_write();
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) y[i] = values[i] * up[i];
  ys.written();
}

template <class S, class T>
void backward(const GatedJob& job, Arithmetic arithmetic, int64_t begin, int64_t count) {
  Tile<S, T> grads(job, 0, begin, count), gates(job, 1, begin, count), ups(job, 2, begin, count);
  Tile<S, T> grad_gates(job, 3, begin, count), grad_ups(job, 4, begin, count);
  const T *grad = grads.read(), *raw_gate = gates.read(), *raw_up = ups.read();
  const T *gate = raw_gate, *up = raw_up;
  Bounds<T> bounds(job);
  bounds.apply(gate, up, count);
  const bool caps_up = job.up_cap < kInfinity;
  alignas(64) T capped[kTile];
  if (caps_up) {
    softcapped(job.up_cap, arithmetic, up, capped, count);
    up = capped;
  }
  T *grad_gate = grad_gates.to_write(), *grad_up = grad_ups.to_write();

  void* const data[] = {const_cast<T*>(grad), const_cast<T*>(gate), const_cast<T*>(up), grad_gate, grad_up};
  const Loop loop =
      job.limits_value || job.gate_cap < kInfinity ? nullptr : both_gradients_loop(job.activation, arithmetic);
  if (loop) {
    loop(job.a, job.b, data, count);
  } else {
    separate_gradients<T>(job, arithmetic, data, count);
  }
  if (caps_up) softcap_gradient(job.up_cap, arithmetic, grad_up, raw_up, grad_up, count);
  if (bounds.active) {
    const T limit = bounds.limit;
    const bool limits_gate = !job.limits_value;
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      grad_gate[i] = (raw_gate[i] > limit) & limits_gate ? T(0) : grad_gate[i];
      grad_up[i] = (raw_up[i] > limit) | (raw_up[i] < -limit) ? T(0) : grad_up[i];
    }
  }
  grad_gates.written();
  grad_ups.written();
}

template <class S, class T>
void run_tiles(const GatedJob& job, Arithmetic arithmetic, int64_t begin, int64_t end) {
  for (; begin < end; begin += kTile) {
    const int64_t count = end - begin < kTile ? end - begin : kTile;
    if (job.backward) {
      backward<S, T>(job, arithmetic, begin, count);
    } else {
      forward<S, T>(job, arithmetic, begin, count);
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
