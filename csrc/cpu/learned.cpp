// A formula has K parameters at hand: `value(x)`, and `gradient(grad, x, sums)`, which returns the gradient for x and
// leaves each parameter's share in `sums`. `rows` is one channel's elements, whose parameters stay in registers and whose
// sums are a reduction; `columns` is one element of each channel.
#include "learned.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "../gates.h"
#include "convert.h"

namespace nnk::NNK_ISA {
namespace {

constexpr int64_t kTile = 1024;

template <class M>
struct Prelu {
  using T = typename M::T;
  static constexpr int K = 1;
  T weight;
  explicit NNK_HD Prelu(const T* p) : weight(p[0]) {}

  NNK_HD T value(T x, T) const { return x > T(0) ? x : weight * x; }
  NNK_HD T gradient(T grad, T x, T, T* sums) const {
    const T product = grad * x;
    sums[0] = x > T(0) ? T(0) : product;
    return x > T(0) ? grad : weight * grad;
  }
};

template <class M>
struct Swish {
  using T = typename M::T;
  using Argument = ScaledArgument<M>;
  static constexpr int K = 1;
  Gate<M, Argument> gate;
  explicit NNK_HD Swish(const T* p) : gate{Argument({p[0], T(0)})} {}

  NNK_HD T value(T x, T) const { return gate.value(x); }
  NNK_HD T gradient(T grad, T x, T, T* sums) const {
    sums[0] = grad * by_beta(gate.argument.bounded(x));
    return grad * gate.d1(x);
  }

  // x^2 sigmoid'(beta x). x e^-|z| is held up by half the exponential's scale until x has entered twice.
  NNK_HD T by_beta(T x) const {
    const auto z = gate.argument.z(x);
    const Logistic<M> s(z.hi, z.lo);
    if constexpr (!M::precise) return s.tail.times(x * (s.r * s.r)) * x;
    constexpr T unit = Float<T>::subnormal_unit, half = sizeof(T) == 4 ? T(0x1p-32) : T(0x1p-256);
    const T v = x * (s.r * s.r);
    const T high = madd(v, s.tail.reduced.tail, v) * s.tail.reduced.scale;
    const bool large = magnitude(x) > T(1) / half;
    return high * (large ? unit : half) * x * (large ? T(1) : half);
  }
};

// G of the segments; the first group brings max(0, x), the others add to what is there.
template <class M, int G, bool First>
struct Apl {
  using T = typename M::T;
  static constexpr int K = 2 * G;
  T slope[G], offset[G];
  explicit NNK_HD Apl(const T* p) {
    for (int s = 0; s < G; ++s) slope[s] = p[s], offset[s] = p[G + s];
  }

  NNK_HD T value(T x, T before) const {
    T y = First ? at_least(x, T(0)) : before;
    for (int s = 0; s < G; ++s) y = madd(slope[s], at_least(offset[s] - x, T(0)), y);
    return y;
  }
  NNK_HD T gradient(T grad, T x, T before, T* sums) const {
    T grad_input = First ? (x <= T(0) ? T(0) : grad) : before;
    for (int s = 0; s < G; ++s) {
      const T distance = offset[s] - x;
      const T passed = distance <= T(0) ? T(0) : grad;
      sums[s] = passed * at_least(distance, T(0));
      sums[G + s] = slope[s] * passed;
      grad_input -= sums[G + s];
    }
    return grad_input;
  }
};

// Which row of the parameters, and of the sums, each of a formula's belongs to.
struct Rows {
  int row[8];
  int64_t stride;

  template <class T>
  NNK_HD T* of(T* base, int k) const {
    return base + row[k] * stride;
  }
};

template <class F, bool Columns, class T = typename F::T>
void forward_loop(const Rows& rows, const T* parameters, const T* x, T* y, int64_t count) {
  const T* at[F::K];
  for (int k = 0; k < F::K; ++k) at[k] = rows.of(parameters, k);
  if constexpr (Columns) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      T own[F::K];
      for (int k = 0; k < F::K; ++k) own[k] = at[k][i];
      y[i] = F(own).value(x[i], y[i]);
    }
  } else {
    T own[F::K];
    for (int k = 0; k < F::K; ++k) own[k] = *at[k];
    const F f(own);
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) y[i] = f.value(x[i], y[i]);
  }
}

template <class F, bool Columns, bool Sums, class T = typename F::T>
void backward_loop(const Rows& rows, const T* parameters, const T* grad, const T* x, T* grad_input, T* sums,
                   int64_t count) {
  constexpr int K = F::K;
  const T* at[K];
  T* sum[K];
  for (int k = 0; k < K; ++k) at[k] = rows.of(parameters, k), sum[k] = Sums ? rows.of(sums, k) : nullptr;
  if constexpr (Columns) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      T own[K], share[K];
      for (int k = 0; k < K; ++k) own[k] = at[k][i];
      grad_input[i] = F(own).gradient(grad[i], x[i], grad_input[i], share);
      if constexpr (Sums) {
        for (int k = 0; k < K; ++k) sum[k][i] += share[k];
      }
    }
  } else {
    T own[K];
    for (int k = 0; k < K; ++k) own[k] = *at[k];
    const F f(own);
    // Named one by one, since gcc keeps no array of reductions in registers.
    T s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3, s4, s5, s6, s7)
    for (int64_t i = 0; i < count; ++i) {
      T share[K];
      grad_input[i] = f.gradient(grad[i], x[i], grad_input[i], share);
      if constexpr (Sums) {
        s0 += share[0];
        if constexpr (K > 1) s1 += share[1];
        if constexpr (K > 2) s2 += share[2], s3 += share[3];
        if constexpr (K > 4) s4 += share[4], s5 += share[5];
        if constexpr (K > 6) s6 += share[6], s7 += share[7];
      }
    }
    if constexpr (Sums) {
      const T found[] = {s0, s1, s2, s3, s4, s5, s6, s7};
      for (int k = 0; k < K; ++k) *sum[k] += found[k];
    }
  }
}

template <class T>
using Forward = void (*)(const Rows&, const T* parameters, const T* x, T* y, int64_t count);
template <class T>
using Backward = void (*)(const Rows&, const T* parameters, const T* grad, const T* x, T* grad_input, T* sums, int64_t);

template <bool Columns>
struct ForwardLoops {
  template <class F>
  static constexpr Forward<typename F::T> loop = forward_loop<F, Columns>;
};

template <bool Columns, bool Sums>
struct BackwardLoops {
  template <class F>
  static constexpr Backward<typename F::T> loop = backward_loop<F, Columns, Sums>;
};

template <class Loop>
struct Step {
  Loop loop;
  Rows rows;
};

// One loop over the data, or for apl one for each group of up to four segments.
template <class M, class Loops>
auto steps_of(const LearnedJob& job) {
  using Loop = std::decay_t<decltype(Loops::template loop<Prelu<M>>)>;
  std::vector<Step<Loop>> steps;
  if (job.activation == Learned::prelu) steps.push_back({Loops::template loop<Prelu<M>>, {{0}, job.channels}});
  if (job.activation == Learned::swish) steps.push_back({Loops::template loop<Swish<M>>, {{0}, job.channels}});
  if (job.activation != Learned::apl) return steps;
  constexpr Loop of_groups[2][4] = {
      {Loops::template loop<Apl<M, 1, true>>, Loops::template loop<Apl<M, 2, true>>,
       Loops::template loop<Apl<M, 3, true>>, Loops::template loop<Apl<M, 4, true>>},
      {Loops::template loop<Apl<M, 1, false>>, Loops::template loop<Apl<M, 2, false>>,
       Loops::template loop<Apl<M, 3, false>>, Loops::template loop<Apl<M, 4, false>>},
  };
  for (int at = 0; at < job.segments; at += 4) {
    const int size = job.segments - at < 4 ? job.segments - at : 4;
    Step<Loop> step{of_groups[at > 0][size - 1], {{}, job.channels}};
    for (int s = 0; s < size; ++s) step.rows.row[s] = at + s, step.rows.row[size + s] = job.segments + at + s;
    steps.push_back(step);
  }
  return steps;
}

int64_t at_most_left(int64_t block, int64_t from, int64_t all) { return all - from < block ? all - from : block; }

// Calls visit(partial, channel, offsets, count) for each run of adjacent elements of the items: `partial` counts pairs of
// an outer and an inner block, `channel` is the (first) channel, `offsets` are the operands'.
template <int operands, class Enter, class Visit>
void each_run(const LearnedJob& job, int64_t begin, int64_t end, Enter enter, Visit visit) {
  const int64_t channel_blocks = job.channel_blocks(), inner_blocks = job.inner_blocks();
  for (int64_t item = begin; item < end; ++item) {
    const int64_t partial = item / channel_blocks;
    const int64_t c0 = item % channel_blocks * job.channel_block, cs = at_most_left(job.channel_block, c0, job.channels);
    const int64_t i0 = partial % inner_blocks * job.inner_block, is = at_most_left(job.inner_block, i0, job.inner);
    const int64_t o0 = partial / inner_blocks * job.outer_block, os = at_most_left(job.outer_block, o0, job.outer);
    enter(partial, c0, cs);
    int64_t offsets[operands];
    for (int64_t o = o0; o < o0 + os; ++o) {
      if (job.inner == 1) {
        const int64_t count = o + 1 < job.outer ? cs : at_most_left(cs, c0, job.last);
        for (int n = 0; n < operands; ++n) offsets[n] = o * job.operands[n].outer_stride + c0;
        if (count > 0) visit(partial, c0, offsets, count);
        continue;
      }
      for (int64_t c = c0; c < c0 + cs; ++c) {
        for (int n = 0; n < operands; ++n) {
          offsets[n] = o * job.operands[n].outer_stride + c * job.operands[n].channel_stride + i0;
        }
        visit(partial, c, offsets, is);
      }
    }
  }
}

// `S` is what lies in memory: M's own type, or 16 bits that are widened a tile at a time.
template <class S, class M, bool Columns>
void forward_items(const LearnedJob& job, int64_t begin, int64_t end) {
  using T = typename M::T;
  const auto steps = steps_of<M, ForwardLoops<Columns>>(job);
  const T* parameters = static_cast<const T*>(job.parameters);
  each_run<2>(
      job, begin, end, [](int64_t, int64_t, int64_t) {},
      [&](int64_t, int64_t channel, const int64_t* offsets, int64_t count) {
        const S* x = static_cast<const S*>(job.operands[0].data) + offsets[0];
        S* y = static_cast<S*>(job.operands[1].data) + offsets[1];
        if constexpr (std::is_same_v<S, T>) {
          for (const auto& step : steps) step.loop(step.rows, parameters + channel, x, y, count);
        } else {
          alignas(64) T wide_x[kTile], wide_y[kTile];
          for (int64_t i = 0; i < count; i += kTile) {
            const int64_t size = at_most_left(kTile, i, count);
            const T* own = parameters + channel + (Columns ? i : 0);
            widen(x + i, wide_x, size);
            for (const auto& step : steps) step.loop(step.rows, own, wide_x, wide_y, size);
            narrow(wide_y, y + i, size);
          }
        }
      });
}

template <class S, class M, bool Columns, bool Sums>
void backward_items(const LearnedJob& job, int64_t begin, int64_t end) {
  using T = typename M::T;
  const auto steps = steps_of<M, BackwardLoops<Columns, Sums>>(job);
  const T* parameters = static_cast<const T*>(job.parameters);
  T* partials = static_cast<T*>(job.partials);
  const int rows = job.parameter_rows();
  each_run<3>(
      job, begin, end,
      [&](int64_t partial, int64_t channel, int64_t channels) {
        if constexpr (Sums) {
          for (int k = 0; k < rows; ++k) {
            std::fill_n(partials + (partial * rows + k) * job.channels + channel, channels, T(0));
          }
        }
      },
      [&](int64_t partial, int64_t channel, const int64_t* offsets, int64_t count) {
        const S* grad = static_cast<const S*>(job.operands[0].data) + offsets[0];
        const S* x = static_cast<const S*>(job.operands[1].data) + offsets[1];
        S* grad_input = static_cast<S*>(job.operands[2].data) + offsets[2];
        T* sums = Sums ? partials + partial * rows * job.channels + channel : nullptr;
        if constexpr (std::is_same_v<S, T>) {
          for (const auto& step : steps) step.loop(step.rows, parameters + channel, grad, x, grad_input, sums, count);
        } else {
          alignas(64) T wide_grad[kTile], wide_x[kTile], wide[kTile];
          for (int64_t i = 0; i < count; i += kTile) {
            const int64_t size = at_most_left(kTile, i, count), at = Columns ? i : 0;
            widen(grad + i, wide_grad, size);
            widen(x + i, wide_x, size);
            for (const auto& step : steps) {
              step.loop(step.rows, parameters + channel + at, wide_grad, wide_x, wide, Sums ? sums + at : nullptr, size);
            }
            narrow(wide, grad_input + i, size);
          }
        }
      });
}

template <class S, class M>
void forward_of(const LearnedJob& job, int64_t begin, int64_t end) {
  (job.inner == 1 ? forward_items<S, M, true> : forward_items<S, M, false>)(job, begin, end);
}

template <class S, class M>
void backward_of(const LearnedJob& job, int64_t begin, int64_t end) {
  if (job.inner == 1) {
    (job.partials ? backward_items<S, M, true, true> : backward_items<S, M, true, false>)(job, begin, end);
  } else {
    (job.partials ? backward_items<S, M, false, true> : backward_items<S, M, false, false>)(job, begin, end);
  }
}

}  // namespace

void learned_forward(const LearnedJob& job, int64_t begin, int64_t end) {
  switch (job.scalar) {
    case Scalar::f64: return forward_of<double, Double>(job, begin, end);
    case Scalar::f32: return forward_of<float, Single>(job, begin, end);
    case Scalar::bf16: return forward_of<BFloat16, Fast>(job, begin, end);
    case Scalar::f16: return forward_of<Half, Fast>(job, begin, end);
  }
}

void learned_backward(const LearnedJob& job, int64_t begin, int64_t end) {
  switch (job.scalar) {
    case Scalar::f64: return backward_of<double, Double>(job, begin, end);
    case Scalar::f32: return backward_of<float, Single>(job, begin, end);
    case Scalar::bf16: return backward_of<BFloat16, Fast>(job, begin, end);
    case Scalar::f16: return backward_of<Half, Fast>(job, begin, end);
  }
}

}  // namespace nnk::NNK_ISA
