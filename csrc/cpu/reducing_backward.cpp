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

inline void store(float x, float* to) { *to = x; }
inline void store(double x, double* to) { *to = x; }
inline void store(float x, BFloat16* to) { *to = narrow_one(x, *to); }

template <class S>
constexpr bool in_pairs = std::is_same_v<S, BFloat16>;

// The results, where they are what was kept.
struct Kept {
  template <class T>
  T operator()(T y) const {
    return y;
  }
};

// So many sums at once, since each addition waits for the one before. In the order of memory: several runs of a row at
// a time would be too many streams for the caches to see coming.
constexpr int64_t kSums = 64;

template <bool log, class S, class Result>
auto sum_of_terms(const S* grad, const S* kept, int64_t count, bool masked, Result result) {
  using T = decltype(number(*kept));
  alignas(64) T sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= count; i += kSums) {
    if constexpr (in_pairs<S>) {
#pragma GCC ivdep
      for (int64_t j = 0; j < kSums / 2; ++j) {
        const Pair16 g = load_pair(grad + i + 2 * j), v = load_pair(kept + i + 2 * j);
        sums[j] += term<log>(g.low(), result(v.low()), masked);
        sums[kSums / 2 + j] += term<log>(g.high(), result(v.high()), masked);
      }
    } else {
#pragma GCC ivdep
      for (int64_t j = 0; j < kSums; ++j)
        sums[j] += term<log>(number(grad[i + j]), result(number(kept[i + j])), masked);
    }
  }
  for (int64_t j = 0; i < count; ++i, ++j) sums[j] += term<log>(number(grad[i]), result(number(kept[i])), masked);
  for (int64_t width = kSums / 2; width > 0; width /= 2) {
    for (int64_t j = 0; j < width; ++j) sums[j] += sums[width + j];
  }
  return sums[0];
}

template <class M, bool log, class S, class Result, class T = typename M::T>
NNK_HD void write_gradients(const S* grad, const S* kept, T total, T scale, bool masked, S* grad_x, int64_t count,
                            Result result) {
  int64_t done = 0;
  if constexpr (in_pairs<S>) {
    done = count / 2 * 2;
#pragma GCC ivdep
    for (int64_t i = 0; i < count / 2; ++i) {
      const Pair16 g = load_pair(grad + 2 * i), v = load_pair(kept + 2 * i);
      store_pair(gradient<M, log>(g.low(), result(v.low()), total, scale, masked),
                 gradient<M, log>(g.high(), result(v.high()), total, scale, masked), grad_x + 2 * i);
    }
  }
#pragma GCC ivdep
  for (int64_t i = done; i < count; ++i) {
    store(gradient<M, log>(number(grad[i]), result(number(kept[i])), total, scale, masked), grad_x + i);
  }
}

// No exponential is taken.
template <class S, class Result>
NNK_WAITS_FOR_MEMORY void write_light_gradients(const S* grad, const S* kept, S total, S scale, S* grad_x,
                                                int64_t count, Result result) {
  using M = std::conditional_t<sizeof(S) == 8, Double, Single>;
  write_gradients<M, false>(grad, kept, total, scale, false, grad_x, count, result);
}

// Adjacent numbers as loops read them: half-precision ones, for which there is no scalar instruction, in a tile.
template <class S>
const S* readable(const S* from, S*, int64_t) {
  return from;
}
inline const float* readable(const Half* from, float* tile, int64_t count) {
  widen(from, tile, count);
  return tile;
}

template <class M, bool log, class Job, class S, class Result, class T = typename M::T>
void backward_row(const Job& job, bool masked, const S* grad, const S* kept, S* grad_x, int64_t count, Result result) {
  using Read = std::conditional_t<std::is_same_v<S, Half>, float, S>;
  alignas(64) Read grads[kTile], tile[kTile];
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int64_t size = least(kTile, count - begin);
    const Read *g = readable(grad + begin, grads, size), *v = readable(kept + begin, tile, size);
    total += sum_of_terms<log>(g, v, size, masked, result);
  }
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int64_t size = least(kTile, count - begin);
    const Read *g = readable(grad + begin, grads, size), *v = readable(kept + begin, tile, size);
    if constexpr (std::is_same_v<S, Half>) {
      write_gradients<M, log>(g, v, T(total), T(job.scale), masked, tile, size, result);
      narrow(tile, grad_x + begin, size);
    } else if constexpr (!log && std::is_same_v<S, T>) {
      write_light_gradients(g, v, T(total), T(job.scale), grad_x + begin, size, result);
    } else {
      write_gradients<M, log>(g, v, T(total), T(job.scale), masked, grad_x + begin, size, result);
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
      backward_row<M, log>(job, job.masked, grad, y, grad_x, count, Kept());
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

// What a logarithm was before it was rounded: factor (z - top) - norm, which has the scale's sign unless the logits do.
struct Unrounded {
  float factor, top, norm;

  Unrounded(const LogSoftmaxBackwardJob& job, int64_t row) : norm(job.statistics.norms[row]) {
    const bool adds = job.mask.kind == MaskKind::add, bare = job.mask.kind == MaskKind::none;
    const float scale = static_cast<float>(job.scale), top = job.statistics.tops[row];
    factor = adds ? 1.0f : bare ? scale : magnitude(scale);
    this->top = adds ? 0.0f : bare && scale < 0 ? -top : top;
  }

  float operator()(float z) const { return madd(factor, z - top, -norm); }
};

// Logits of a row, or, `step` being 1, of adjacent ones; where a mask is added their maximum is off already.
template <class S>
void read_logits(const LogSoftmaxBackwardJob& job, const S* x, int64_t mask_at, int64_t mask_stride, const float* tops,
                 int64_t step, float* z, int64_t count) {
  alignas(64) float lo[kTile];
  if (job.mask.kind == MaskKind::none) return widen(x, z, count);
  logits(job, x, mask_at, mask_stride, z, lo, count);
  if (job.mask.kind != MaskKind::add) return;
  for (int64_t i = 0; i < count; ++i) z[i] = (z[i] - tops[i * step]) + lo[i];
}

// A row that has a mask, or a gradient of another type.
template <class G, class S>
void logarithm_row(const LogSoftmaxBackwardJob& job, bool masked, const G* grad, const S* x, S* grad_x, int64_t mask_at,
                   int64_t row, int64_t count) {
  alignas(64) float z[kTile], grads[kTile];
  const float *g = nullptr, *logits = z;
  const auto read = [&](int64_t begin, int64_t size) {
    const int64_t stride = job.mask.dim_stride;
    read_logits(job, x + begin, mask_at + begin * stride, stride, job.statistics.tops + row, 0, z, size);
    g = wide(grad + begin, grads, size);
  };
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int64_t size = least(kTile, count - begin);
    read(begin, size);
    total += sum_of_terms<true>(g, logits, size, masked, Kept());  // which are -inf where the results are
  }
  const Unrounded unrounded(job, row);
  const float sum = static_cast<float>(total), scale = static_cast<float>(job.scale);
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int64_t size = least(kTile, count - begin);
    if (count > kTile) read(begin, size);
    write_gradients<Fast, true>(g, logits, sum, scale, masked, z, size, unrounded);
    narrow(z, grad_x + begin, size);
  }
}

template <class G, class S>
void logarithm_strip(const LogSoftmaxBackwardJob& job, bool masked, const G* grad, const S* x, S* grad_x,
                     int64_t mask_at, int64_t row, int64_t count, int64_t width) {
  alignas(64) float grads[kStrip], z[kStrip] = {}, factor[kStrip], top[kStrip], norm[kStrip], total[kStrip];
  double sums[kStrip];
  const float scale = static_cast<float>(job.scale);
  const auto read = [&](int64_t d) {
    const int64_t at = mask_at + d * job.mask.dim_stride;
    read_logits(job, x + d * job.inner, at, job.mask.inner_stride, job.statistics.tops + row, 1, z, width);
  };
  for (int64_t i = 0; i < width; ++i) {
    const Unrounded unrounded(job, row + i);
    factor[i] = unrounded.factor, top[i] = unrounded.top, norm[i] = unrounded.norm;
    sums[i] = 0;
  }
  for (int64_t d = 0; d < count; ++d) {
    if (masked) read(d);
    const float* g = wide(grad + d * job.inner, grads, width);
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i) sums[i] += term<true>(g[i], z[i], masked);
  }
  for (int64_t i = 0; i < width; ++i) total[i] = static_cast<float>(sums[i]);
  for (int64_t d = 0; d < count; ++d) {
    read(d);
    const float* g = wide(grad + d * job.inner, grads, width);
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i) {
      const float y = madd(factor[i], z[i] - top[i], -norm[i]);
      z[i] = gradient<Fast, true>(g[i], y, total[i], scale, masked);
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
    const bool plain = job.mask.kind == MaskKind::none, masked = !plain || job.queries;
    const int64_t mask_at = plain ? 0 : mask_offset(job.mask, outer) + col * job.mask.inner_stride;
    const int64_t count = kept(job.n, job.queries, outer), width = least(kStrip, job.inner - col);
    if (job.inner != 1) {
      logarithm_strip(job, masked, grad, x, grad_x, mask_at, at, count, width);
    } else if (!plain || !alike) {
      logarithm_row(job, masked, grad, x, grad_x, mask_at, at, count);
    } else if constexpr (alike) {
      backward_row<Fast, true>(job, masked, grad, x, grad_x, count, Unrounded(job, at));
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
