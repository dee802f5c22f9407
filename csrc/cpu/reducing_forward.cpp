// softmax forward: a row's maximum, its exponentials and their sum, and the results, while the row is in the cache.
#include <new>

#include "reducing_logits.h"

namespace nnk::NNK_ISA {
namespace {

// What lies between x and the exponent: nothing, a factor after the maximum was taken off, or a rounding error `lo`.
enum class Form { plain, scaled, pairs };

template <class T>
struct Scratch {
  T* data;
  explicit Scratch(int64_t count)
      : data(count ? static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(64))) : nullptr) {}
  ~Scratch() { ::operator delete(data, std::align_val_t(64)); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

// factor (z + lo - m), whose error is returned too if M is precise; exactly 0 at the maximum.
template <class M, Form form, class T = typename M::T>
NNK_HD Pair<T> exponent(T z, T lo, Pair<T> m, T factor) {
  const T d = z - m.hi;
  if constexpr (!M::precise) {
    return {form == Form::scaled ? factor * d : form == Form::pairs ? d + (lo - m.lo) : d, T(0)};
  } else {
    T error = difference_error(z, m.hi, d);
    T hi = d;
    if constexpr (form == Form::scaled) {
      hi = factor * d;
      error = madd(factor, error, product_error(factor, d, hi));
    } else if constexpr (form == Form::pairs) {
      error = error + (lo - m.lo);
    }
    // Beyond the exponential's reach the errors may be NaN.
    return {hi, hi < -Float<T>::far ? T(0) : error};
  }
}

// unit e^(factor (z + lo - m)) in a row with the maximum m, whose own is exactly `unit`. z - m would be rounded, and
// its error magnified; so z and m each lose a whole multiple of log(2), and what is left of them, about 1 at most, is
// subtracted. Where |m| is beyond the exponential's reach, z - m is exact wherever the result is not 0 (Sterbenz).
template <class M, Form form>
struct Exponentials {
  using T = typename M::T;
  using F = Float<T>;
  using Bits = typename F::Bits;
  T factor, log2e, base, base_lo, lowest, fraction = 0, rest = 0, magic;

  NNK_HD Exponentials(Pair<T> m, T factor) : factor(factor), log2e(factor * F::log2e), base(m.hi), base_lo(m.lo) {
    T hi = 0, whole = 0;
    if constexpr (M::precise) {
      if (magnitude(factor * m.hi) < T(2) * F::far) {
        base = 0;
        hi = m.hi;
        whole = madd(hi, log2e, F::magic) - F::magic;
        fraction = madd(hi, log2e, -whole);
      }
      rest = remainder(hi, m.lo, whole);
    }
    lowest = hi - F::far / factor;
    // The sum's last bits are the exponent of the scale.
    magic = F::magic + (T(F::bias + F::subnormal_shift) - whole);
  }

  NNK_HD T operator()(T z, T lo) const {
    T d = z - base;
    if constexpr (form == Form::pairs && !M::precise) d += lo - base_lo;
    d = at_least(d, lowest);
    const T shifted = M::precise ? madd(d, log2e, -fraction) + magic : madd(d, log2e, magic);
    T r = remainder(d, lo, shifted - magic);
    if constexpr (M::precise) r -= rest;
    const T tail = madd(r * r, polynomial<M::Table::expm1>(r), r);
    const T scale = bits_of<T>(bits_of<Bits>(shifted) << F::mantissa);
    return madd(scale, tail, scale);
  }

 private:
  // factor d + lo - n log(2)
  NNK_HD T remainder(T d, T lo, T n) const {
    const T z = form == Form::scaled ? factor * d : d;
    if constexpr (!M::precise) {
      return madd(n, -F::ln2, z);
    } else {
      const T r = madd(n, -F::ln2_lo, madd(n, -F::ln2_hi, z));
      if constexpr (form == Form::scaled) return r + product_error(factor, d, z);
      return form == Form::pairs ? r + lo : r;
    }
  }
};

// log(1 + rest), rest >= 0: k log(2) + log(1 + u), with u = rest below 1.
template <class M, class T = typename M::T>
NNK_HD T log_of_sum(T rest) {
  using F = Float<T>;
  using Bits = typename F::Bits;
  constexpr Bits one = Bits(F::bias) << F::mantissa, fraction = (Bits(1) << F::mantissa) - 1;
  const Bits bits = bits_of<Bits>(T(1) + rest);
  const bool small = rest < T(1);
  const T k = small ? T(0) : T((bits >> F::mantissa) - F::bias);
  const T u = small ? rest : bits_of<T>((bits & fraction) | one) - T(1);
  const T y = madd(k, F::ln2_hi, madd(k, F::ln2_lo, u * log1p_ratio<M>(u)));
  return rest != rest ? rest : y;
}

// Four runs at once, since each comparison waits for the one before.
template <class T>
T greatest(const T* z, int64_t count) {
  const int64_t run = count / 64 * 16;
  T a = -Range<T>::infinity, b = a, c = a, d = a;
#pragma omp simd reduction(max : a, b, c, d)
  for (int64_t i = 0; i < run; ++i) {
    a = z[i] > a ? z[i] : a;
    b = z[i + run] > b ? z[i + run] : b;
    c = z[i + 2 * run] > c ? z[i + 2 * run] : c;
    d = z[i + 3 * run] > d ? z[i + 3 * run] : d;
  }
#pragma omp simd reduction(max : a)
  for (int64_t i = 4 * run; i < count; ++i) a = z[i] > a ? z[i] : a;
  a = b > a ? b : a;
  c = d > c ? d : c;
  return c > a ? c : a;
}

template <Form form, class T>
Pair<T> maximum(const T* z, const T* lo, int64_t count) {
  const T m = greatest(z, count);
  T low = -Range<T>::infinity;
  if constexpr (form != Form::pairs) return {m, T(0)};
#pragma omp simd reduction(max : low)
  for (int64_t i = 0; i < count; ++i) low = z[i] == m && lo[i] > low ? lo[i] : low;
  return {m, low};
}

template <class T>
NNK_HD bool reaches(T z, T lo, Pair<T> m) {
  return (z == m.hi) & (lo == m.lo);
}

template <class T>
struct Sums {
  double sum = 0, tops = 0;
};

// The exponentials' sum, which are written to e; for a logarithm the sum of those below the maximum, and how many reach
// it, so that no digit of a small rest is lost beside the 1.
template <class M, Form form, bool log, class T = typename M::T>
Sums<T> sum_exponentials(const T* z, const T* lo, Pair<T> m, T factor, T* e, int64_t count) {
  const Exponentials<M, form> exponential(m, factor);
  Sums<T> sums;
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int64_t end = least(begin + kTile, count);
    T sum = 0, tops = 0;
    if constexpr (log) {
#pragma omp simd reduction(+ : sum, tops)
      for (int64_t i = begin; i < end; ++i) {
        const T low = form == Form::pairs ? lo[i] : T(0);
        const bool top = reaches(z[i], low, m);
        sum += exponential(z[i], low) - (top ? Range<T>::unit : T(0));
        tops += top ? T(1) : T(0);
      }
    } else {
#pragma omp simd reduction(+ : sum)
      for (int64_t i = begin; i < end; ++i) {
        e[i] = exponential(z[i], form == Form::pairs ? lo[i] : T(0));
        sum += e[i];
      }
    }
    sums.sum += sum;
    sums.tops += tops;
  }
  return sums;
}

// What every result of a row needs: 1 / sum, or log(sum). A row of which a mask left nothing is 0 or -inf; NaN stays.
template <class M, bool log, class T = typename M::T>
NNK_HD T norm_of(double sum, double tops, bool empty) {
  if (empty) return static_cast<T>(0 * sum);
  if constexpr (log) {
    return log_of_sum<M>(static_cast<T>(sum / double(Range<T>::unit) + (tops - 1)));
  } else {
    return static_cast<T>(1 / sum);
  }
}

// The exponentials times `norm`.
template <class S, class T>
void write_products(const T* e, T norm, S* y, int64_t count) {
  if constexpr (std::is_same_v<S, T>) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) y[i] = e[i] * norm;
  } else if constexpr (std::is_same_v<S, BFloat16>) {
    if (norm != norm) return fill(y, count, norm);
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t bits = bits_of<uint32_t>(e[i] * norm);  // of no NaN, which narrow() has to care for
      y[i].bits = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    }
  } else {
    alignas(64) T tile[kTile];
    for (int64_t begin = 0; begin < count; begin += kTile) {
      const int64_t size = least(kTile, count - begin);
      for (int64_t i = 0; i < size; ++i) tile[i] = e[begin + i] * norm;
      narrow(tile, y + begin, size);
    }
  }
}

template <class M, Form form, class S, class T = typename M::T>
void write_logarithms(const T* from, const T* lo, Pair<T> m, T factor, T norm, S* y, int64_t count) {
  alignas(64) T tile[kTile];
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int64_t size = least(kTile, count - begin);
    T* to = tile;
    if constexpr (std::is_same_v<S, T>) to = y + begin;
#pragma GCC ivdep
    for (int64_t i = 0; i < size; ++i) {
      const T low = form == Form::pairs ? lo[begin + i] : T(0);
      const Pair<T> d = exponent<M, form>(from[begin + i], low, m, factor);
      to[i] = (d.hi - norm) + d.lo;
    }
    if constexpr (!std::is_same_v<S, T>) narrow(tile, y + begin, size);
  }
}

// The maximum's rounding error goes to the logarithm, from which no digit is lost by it.
template <class T>
void keep_statistics(const SoftmaxJob& job, int64_t row, Pair<T> m, T norm) {
  if (!job.statistics.tops) return;
  job.statistics.tops[row] = static_cast<float>(m.hi);
  job.statistics.norms[row] = static_cast<float>(norm + m.lo);
}

template <class M, Form form, bool log, class S, class T = typename M::T>
void row(const SoftmaxJob& job, const S* x, S* y, int64_t mask_at, int64_t at, int64_t count, T* z, T* lo) {
  const T factor = form == Form::scaled ? T(job.scale < 0 ? -job.scale : job.scale) : T(1);
  const T* from = logits(job, x, mask_at, job.mask.dim_stride, z, lo, count);
  Pair<T> m = maximum<form>(from, lo, count);
  const bool empty = job.mask.kind != MaskKind::none && m.hi == -Range<T>::infinity;
  if (empty) m = {T(0), T(0)};
  T* e = z;
  if constexpr (std::is_same_v<S, T>) e = y;
  const Sums<T> sums = sum_exponentials<M, form, log>(from, lo, m, factor, e, count);
  const T norm = norm_of<M, log>(sums.sum, sums.tops, empty);
  if constexpr (log) {
    keep_statistics(job, at, m, norm);
    write_logarithms<M, form>(from, lo, m, factor, norm, y, count);
  } else {
    write_products(e, norm, y, count);
  }
}

// As `row`, for `width` adjacent columns of (n, inner) at once.
template <class M, Form form, bool log, class S, class T = typename M::T>
void strip(const SoftmaxJob& job, const S* x, S* y, int64_t mask_at, int64_t at, int64_t count, int64_t width) {
  alignas(64) T m[kStrip], m_lo[kStrip], sum[kStrip], tops[kStrip], norm[kStrip], z[kStrip], lo[kStrip];
  double sums[kStrip], all_tops[kStrip];
  bool empty[kStrip];
  constexpr bool keeps = std::is_same_v<S, T> && !log;  // the exponentials, where the results will be
  const T factor = form == Form::scaled ? T(job.scale < 0 ? -job.scale : job.scale) : T(1);
  const auto read = [&](int64_t d) {
    return logits(job, x + d * job.inner, mask_at + d * job.mask.dim_stride, job.mask.inner_stride, z, lo, width);
  };
  for (int64_t i = 0; i < width; ++i) m[i] = m_lo[i] = -Range<T>::infinity, sums[i] = all_tops[i] = 0;
  for (int64_t d = 0; d < count; ++d) {
    const T* from = read(d);
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i) {
      const T low = form == Form::pairs ? lo[i] : T(0);
      const bool higher = (from[i] > m[i]) | ((from[i] == m[i]) & (low > m_lo[i]));
      m[i] = higher ? from[i] : m[i];
      m_lo[i] = higher ? low : m_lo[i];
    }
  }
  for (int64_t i = 0; i < width; ++i) {
    const bool closed = m[i] == -Range<T>::infinity;
    empty[i] = closed && job.mask.kind != MaskKind::none;
    m[i] = empty[i] ? T(0) : m[i];
    m_lo[i] = closed ? T(0) : m_lo[i];
  }
  constexpr int64_t kTerms = 64;
  for (int64_t begin = 0; begin < count; begin += kTerms) {
    for (int64_t i = 0; i < width; ++i) sum[i] = tops[i] = 0;
    for (int64_t d = begin; d < least(begin + kTerms, count); ++d) {
      const T* from = read(d);
#pragma GCC ivdep
      for (int64_t i = 0; i < width; ++i) {
        const T low = form == Form::pairs ? lo[i] : T(0);
        const Pair<T> top{m[i], m_lo[i]};
        T e = exponential<M>(exponent<M, form>(from[i], low, top, factor));
        if constexpr (keeps) y[d * job.inner + i] = e;
        if constexpr (log) {
          e -= reaches(from[i], low, top) ? Range<T>::unit : T(0);
          tops[i] += reaches(from[i], low, top) ? T(1) : T(0);
        }
        sum[i] += e;
      }
    }
    for (int64_t i = 0; i < width; ++i) sums[i] += sum[i], all_tops[i] += tops[i];
  }
  for (int64_t i = 0; i < width; ++i) norm[i] = norm_of<M, log>(sums[i], all_tops[i], empty[i]);
  for (int64_t i = 0; i < width && log; ++i) keep_statistics(job, at + i, Pair<T>{m[i], m_lo[i]}, norm[i]);
  alignas(64) T tile[kStrip];
  for (int64_t d = 0; d < count; ++d) {
    if constexpr (keeps) {
      S* results = y + d * job.inner;
#pragma GCC ivdep
      for (int64_t i = 0; i < width; ++i) results[i] *= norm[i];
      continue;
    }
    const T* from = read(d);
    T* to = tile;
    if constexpr (std::is_same_v<S, T>) to = y + d * job.inner;
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i) {
      const Pair<T> top{m[i], m_lo[i]};
      const Pair<T> d = exponent<M, form>(from[i], form == Form::pairs ? lo[i] : T(0), top, factor);
      to[i] = log ? (d.hi - norm[i]) + d.lo : exponential<M>(d) * norm[i];
    }
    if constexpr (!std::is_same_v<S, T>) narrow(tile, y + d * job.inner, width);
  }
}

template <class M, Form form, bool log, class S>
void units(const SoftmaxJob& job, int64_t begin, int64_t end) {
  using T = typename M::T;
  const bool copies = !std::is_same_v<S, T> || job.mask.kind != MaskKind::none || job.scale < 0;
  const int64_t length = copies && job.inner == 1 ? (job.n + 15) / 16 * 16 : 0;
  const Scratch<T> scratch(form == Form::pairs ? 2 * length : length);
  const int64_t across = strips(job.inner);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t outer = unit / across, col = unit % across * kStrip;
    const S* x = static_cast<const S*>(job.x) + outer * job.x_stride + col;
    S* y = static_cast<S*>(job.y) + outer * job.n * job.inner + col;
    const int64_t mask_at =
        job.mask.kind == MaskKind::none ? 0 : mask_offset(job.mask, outer) + col * job.mask.inner_stride;
    const int64_t count = kept(job.n, job.queries, outer), width = least(kStrip, job.inner - col);
    const int64_t at = outer * job.inner + col;
    if (job.inner == 1) {
      row<M, form, log>(job, x, y, mask_at, at, count, scratch.data, scratch.data + (form == Form::pairs ? length : 0));
    } else {
      strip<M, form, log>(job, x, y, mask_at, at, count, width);
    }
    fill_rest(y, job.n, count, job.inner, width, log ? -Range<T>::infinity : T(0));
  }
}

template <class M, class S>
void by_form(const SoftmaxJob& job, int64_t begin, int64_t end) {
  const bool adds = job.mask.kind == MaskKind::add, scales = job.scale != 1 && job.scale != -1;
  if (adds) return (job.log ? units<M, Form::pairs, true, S> : units<M, Form::pairs, false, S>)(job, begin, end);
  if (scales) return (job.log ? units<M, Form::scaled, true, S> : units<M, Form::scaled, false, S>)(job, begin, end);
  (job.log ? units<M, Form::plain, true, S> : units<M, Form::plain, false, S>)(job, begin, end);
}

}  // namespace

void softmax(const SoftmaxJob& job, int64_t begin, int64_t end) {
  switch (job.scalar) {
    case Scalar::f64: return by_form<Double, double>(job, begin, end);
    case Scalar::f32: return by_form<Single, float>(job, begin, end);
    case Scalar::bf16: return by_form<Fast, BFloat16>(job, begin, end);
    case Scalar::f16: return by_form<Fast, Half>(job, begin, end);
  }
}

}  // namespace nnk::NNK_ISA
