// softmax backward, from the output or from a logarithm's input: one sum over each row, then the gradients.
#include "reducing_logits.h"

namespace nnk::NNK_ISA {
namespace {

// e^y for y <= 0
template <class M, class T = typename M::T>
NNK_HD T probability(T y) {
  return exponential<M>(Pair<T>{y, T(0)}) * (T(1) / Range<T>::unit);
}

// A term of the row's sum.
template <bool log, class T>
NNK_HD T term(T grad, T y, bool masked) {
  if constexpr (!log) return grad * y;
  return masked && y == -Range<T>::infinity ? T(0) : grad;
}

template <class M, bool log, class T = typename M::T>
NNK_HD T gradient(T grad, T y, T total, T scale, bool masked) {
  if constexpr (!log) return scale * y * (grad - total);
  const T g = scale * (grad - probability<M>(y) * total);
  return masked && y == -Range<T>::infinity ? T(0) : g;
}

inline float number(float x) { return x; }
inline double number(double x) { return x; }
inline float number(BFloat16 x) { return widen_one(x); }

inline void store(float x, float* to) { *to = x; }
inline void store(double x, double* to) { *to = x; }
inline void store(float x, BFloat16* to) { *to = narrow_one(x, *to); }

template <class S>
constexpr bool in_pairs = std::is_same_v<S, BFloat16>;

// Two runs of pairs at once.
template <bool log>
float sum_of_pairs(const BFloat16* grad, const BFloat16* y, int64_t count, bool masked) {
  const int64_t run = count / 64 * 32;
  float a = 0, b = 0, c = 0, d = 0;
#pragma omp simd reduction(+ : a, b, c, d)
  for (int64_t i = 0; i < run / 2; ++i) {
    const Pair16 g = load_pair(grad + 2 * i), h = load_pair(grad + run + 2 * i);
    const Pair16 v = load_pair(y + 2 * i), w = load_pair(y + run + 2 * i);
    a += term<log>(g.low(), v.low(), masked), b += term<log>(g.high(), v.high(), masked);
    c += term<log>(h.low(), w.low(), masked), d += term<log>(h.high(), w.high(), masked);
  }
  for (int64_t i = 2 * run; i < count; ++i) a += term<log>(number(grad[i]), number(y[i]), masked);
  return (a + b) + (c + d);
}

// Four runs at once, since each addition waits for the one before.
template <bool log, class S>
auto sum_of_terms(const S* grad, const S* y, int64_t count, bool masked) {
  using T = decltype(number(*y));
  if constexpr (in_pairs<S>) return sum_of_pairs<log>(grad, y, count, masked);
  const int64_t run = count / 64 * 16;
  const auto at = [&](int64_t i) { return term<log>(number(grad[i]), number(y[i]), masked); };
  T a = 0, b = 0, c = 0, d = 0;
#pragma omp simd reduction(+ : a, b, c, d)
  for (int64_t i = 0; i < run; ++i) {
    a += at(i), b += at(i + run), c += at(i + 2 * run), d += at(i + 3 * run);
  }
#pragma omp simd reduction(+ : a)
  for (int64_t i = 4 * run; i < count; ++i) a += at(i);
  return (a + b) + (c + d);
}

template <class M, bool log, class S, class T = typename M::T>
void write_gradients(const S* grad, const S* y, T total, T scale, bool masked, S* grad_x, int64_t count) {
  int64_t done = 0;
  if constexpr (in_pairs<S>) {
    done = count / 2 * 2;
#pragma GCC ivdep
    for (int64_t i = 0; i < count / 2; ++i) {
      const Pair16 g = load_pair(grad + 2 * i), v = load_pair(y + 2 * i);
      store_pair(gradient<M, log>(g.low(), v.low(), total, scale, masked),
                 gradient<M, log>(g.high(), v.high(), total, scale, masked), grad_x + 2 * i);
    }
  }
#pragma GCC ivdep
  for (int64_t i = done; i < count; ++i) {
    store(gradient<M, log>(number(grad[i]), number(y[i]), total, scale, masked), grad_x + i);
  }
}

// Adjacent numbers as loops read them: half-precision ones, for which there is no scalar instruction, in a tile.
template <class S, class T>
const S* readable(const S* from, T*, int64_t) {
  return from;
}
inline const float* readable(const Half* from, float* tile, int64_t count) {
  widen(from, tile, count);
  return tile;
}

template <class M, bool log, class S, class T = typename M::T>
void backward_row(const SoftmaxBackwardJob& job, const S* grad, const S* y, S* grad_x, int64_t count) {
  using Read = std::conditional_t<std::is_same_v<S, Half>, float, S>;
  alignas(64) Read grads[kTile], ys[kTile];
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int64_t size = least(kTile, count - begin);
    const Read *g = readable(grad + begin, grads, size), *v = readable(y + begin, ys, size);
    total += sum_of_terms<log>(g, v, size, job.masked);
  }
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int64_t size = least(kTile, count - begin);
    const Read *g = readable(grad + begin, grads, size), *v = readable(y + begin, ys, size);
    if constexpr (std::is_same_v<S, Half>) {
      write_gradients<M, log>(g, v, T(total), T(job.scale), job.masked, ys, size);
      narrow(ys, grad_x + begin, size);
    } else {
      write_gradients<M, log>(g, v, T(total), T(job.scale), job.masked, grad_x + begin, size);
    }
  }
}

template <class S, class T>
const T* wide(const S* from, T* to, int64_t count) {
  if constexpr (std::is_same_v<S, T>) return from;
  widen(from, to, count);
  return to;
}

template <class M, bool log, class S, class T = typename M::T>
void backward_strip(const SoftmaxBackwardJob& job, const S* grad, const S* y, S* grad_x, int64_t count, int64_t width) {
  alignas(64) T grads[kStrip], ys[kStrip], tile[kStrip], all[kStrip];
  double total[kStrip];
  const T scale = T(job.scale);
  const bool masked = job.masked;
  for (int64_t i = 0; i < width; ++i) total[i] = 0;
  for (int64_t d = 0; d < count; ++d) {
    const T *g = wide(grad + d * job.inner, grads, width), *v = wide(y + d * job.inner, ys, width);
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i) total[i] += term<log>(g[i], v[i], masked);
  }
  for (int64_t i = 0; i < width; ++i) all[i] = static_cast<T>(total[i]);
  for (int64_t d = 0; d < count; ++d) {
    const T *g = wide(grad + d * job.inner, grads, width), *v = wide(y + d * job.inner, ys, width);
    T* to = tile;
    if constexpr (std::is_same_v<S, T>) to = grad_x + d * job.inner;
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i) to[i] = gradient<M, log>(g[i], v[i], all[i], scale, masked);
    if constexpr (!std::is_same_v<S, T>) narrow(tile, grad_x + d * job.inner, width);
  }
}

template <class M, bool log, class S>
void backward_units(const SoftmaxBackwardJob& job, int64_t begin, int64_t end) {
  const int64_t across = strips(job.inner);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t outer = unit / across, col = unit % across * kStrip, at = outer * job.n * job.inner + col;
    const S* grad = static_cast<const S*>(job.grad) + outer * job.grad_stride + col;
    const S* y = static_cast<const S*>(job.y) + at;
    S* grad_x = static_cast<S*>(job.grad_x) + at;
    const int64_t count = kept(job.n, job.queries, outer), width = least(kStrip, job.inner - col);
    if (job.inner == 1) {
      backward_row<M, log>(job, grad, y, grad_x, count);
    } else {
      backward_strip<M, log>(job, grad, y, grad_x, count, width);
    }
    fill_rest(grad_x, job.n, count, job.inner, width, typename M::T(0));
  }
}

template <class M, class S>
void by_kind(const SoftmaxBackwardJob& job, int64_t begin, int64_t end) {
  (job.log ? backward_units<M, true, S> : backward_units<M, false, S>)(job, begin, end);
}

// What a logarithm was before it was rounded, from a logit and its row's statistics.
struct Unrounded {
  float sign, factor;  // what the logits still lack of the scale
  bool adds;

  explicit Unrounded(const LogSoftmaxBackwardJob& job)
      : sign(job.mask.kind == MaskKind::none && job.scale < 0 ? -1.0f : 1.0f),
        factor(job.mask.kind == MaskKind::add ? 1.0f : magnitude(static_cast<float>(job.scale))),
        adds(job.mask.kind == MaskKind::add) {}

  float operator()(float z, float lo, float top, float norm) const {
    return adds ? (z - top) + (lo - norm) : factor * (sign * z - top) - norm;
  }
};

// A tile of logits, and of their errors where a mask is added.
template <bool any_order, class S>
void read_logits(const LogSoftmaxBackwardJob& job, const S* x, int64_t mask_at, int64_t mask_stride, float* z,
                 float* lo, int64_t count) {
  if (job.mask.kind != MaskKind::none) {
    logits(job, x, mask_at, mask_stride, z, lo, count);
  } else if constexpr (any_order) {
    widen_any_order(x, z, count);
  } else {
    widen(x, z, count);
  }
}

template <class S>
const float* wide_any_order(const S* from, float* to, int64_t count) {
  widen_any_order(from, to, count);
  return to;
}

template <bool any_order, class G, class S>
void logarithm_row(const LogSoftmaxBackwardJob& job, const G* grad, const S* x, S* grad_x, int64_t mask_at, int64_t at,
                   int64_t count) {
  alignas(64) float z[kTile], lo[kTile], grads[kTile];
  const Unrounded unrounded(job);
  const float top = job.statistics.tops[at], norm = job.statistics.norms[at], scale = static_cast<float>(job.scale);
  const bool masked = job.mask.kind != MaskKind::none || job.queries;
  const auto read = [&](int64_t begin, int64_t size) {
    read_logits<any_order>(job, x + begin, mask_at + begin * job.mask.dim_stride, job.mask.dim_stride, z, lo, size);
    const float* g;
    if constexpr (any_order) {
      g = wide_any_order(grad + begin, grads, size);
    } else {
      g = wide(grad + begin, grads, size);
    }
    return g;
  };
  double sum = 0;
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int64_t size = least(kTile, count - begin);
    if (masked) {  // a logit of -inf is a logarithm of -inf, which is all that matters here
      const float* g = read(begin, size);
      sum += sum_of_terms<true>(g, z, size, true);
    } else {
      const auto* g = readable(grad + begin, grads, size);
      sum += sum_of_terms<true>(g, g, size, false);
    }
  }
  const float total = static_cast<float>(sum);
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int64_t size = least(kTile, count - begin);
    const float* g = read(begin, size);
#pragma GCC ivdep
    for (int64_t i = 0; i < size; ++i) {
      z[i] = gradient<Fast, true>(g[i], unrounded(z[i], lo[i], top, norm), total, scale, masked);
    }
    if constexpr (any_order) {
      narrow_any_order(z, grad_x + begin, size);
    } else {
      narrow(z, grad_x + begin, size);
    }
  }
}

template <class G, class S>
void logarithm_strip(const LogSoftmaxBackwardJob& job, const G* grad, const S* x, S* grad_x, int64_t mask_at,
                     int64_t at, int64_t count, int64_t width) {
  alignas(64) float grads[kStrip], z[kStrip], lo[kStrip], total[kStrip];
  double sums[kStrip];
  const Unrounded unrounded(job);
  const float *tops = job.statistics.tops + at, *norms = job.statistics.norms + at;
  const float scale = static_cast<float>(job.scale);
  const bool masked = job.mask.kind != MaskKind::none || job.queries;
  const auto read = [&](int64_t d) {
    read_logits<false>(job, x + d * job.inner, mask_at + d * job.mask.dim_stride, job.mask.inner_stride, z, lo, width);
    return wide(grad + d * job.inner, grads, width);
  };
  for (int64_t i = 0; i < width; ++i) sums[i] = 0;
  for (int64_t d = 0; d < count; ++d) {
    const float* g = masked ? read(d) : wide(grad + d * job.inner, grads, width);
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i) sums[i] += term<true>(g[i], z[i], masked);
  }
  for (int64_t i = 0; i < width; ++i) total[i] = static_cast<float>(sums[i]);
  for (int64_t d = 0; d < count; ++d) {
    const float* g = read(d);
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i) {
      z[i] = gradient<Fast, true>(g[i], unrounded(z[i], lo[i], tops[i], norms[i]), total[i], scale, masked);
    }
    narrow(z, grad_x + d * job.inner, width);
  }
}

template <class G, class S>
void logarithm_units(const LogSoftmaxBackwardJob& job, int64_t begin, int64_t end) {
  constexpr bool alike = std::is_same_v<G, S>;
  const int64_t across = strips(job.inner);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t outer = unit / across, col = unit % across * kStrip, at = outer * job.inner + col;
    const G* grad = static_cast<const G*>(job.grad) + outer * job.grad_stride + col;
    const S* x = static_cast<const S*>(job.x) + outer * job.x_stride + col;
    S* grad_x = static_cast<S*>(job.grad_x) + outer * job.n * job.inner + col;
    const bool plain = job.mask.kind == MaskKind::none;
    const int64_t mask_at = plain ? 0 : mask_offset(job.mask, outer) + col * job.mask.inner_stride;
    const int64_t count = kept(job.n, job.queries, outer), width = least(kStrip, job.inner - col);
    if (job.inner != 1) {
      logarithm_strip(job, grad, x, grad_x, mask_at, at, count, width);
    } else if (alike && plain) {
      logarithm_row<alike>(job, grad, x, grad_x, mask_at, at, count);
    } else {
      logarithm_row<false>(job, grad, x, grad_x, mask_at, at, count);
    }
    fill_rest(grad_x, job.n, count, job.inner, width, 0.0f);
  }
}

template <class S>
void by_grad(const LogSoftmaxBackwardJob& job, int64_t begin, int64_t end) {
  (job.wide_grad ? logarithm_units<float, S> : logarithm_units<S, S>)(job, begin, end);
}

}  // namespace

void softmax_backward(const SoftmaxBackwardJob& job, int64_t begin, int64_t end) {
  switch (job.scalar) {
    case Scalar::f64: return by_kind<Double, double>(job, begin, end);
    case Scalar::f32: return by_kind<Single, float>(job, begin, end);
    case Scalar::bf16: return by_kind<Fast, BFloat16>(job, begin, end);
    case Scalar::f16: return by_kind<Fast, Half>(job, begin, end);
  }
}

void log_softmax_backward(const LogSoftmaxBackwardJob& job, int64_t begin, int64_t end) {
  (job.scalar == Scalar::bf16 ? by_grad<BFloat16> : by_grad<Half>)(job, begin, end);
}

}  // namespace nnk::NNK_ISA
