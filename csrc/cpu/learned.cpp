// The loops over the formulas of learned_formulas.h. A row has one set of numbers, which stay in registers, and its
// shares are a reduction; columns have one set each.
#include "learned.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "convert.h"
#include "learned_formulas.h"

namespace nnk::NNK_ISA {
namespace {

constexpr int64_t kTile = 1024;

// Which row of the numbers, and of the sums, each of a formula's belongs to.
struct Rows {
  int row[8];
  int64_t stride;

  template <class T>
  NNK_HD T* of(T* base, int k) const {
    return base + row[k] * stride;
  }
};

template <class F, bool Columns, class T, int... k>
NNK_HD void forward_over(Indices<k...>, const T* const* at, const T* x, T* y, int64_t count) {
  const T* const from[] = {at[k]...};
  const F shared(from[k][0]...);
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) y[i] = (Columns ? F(from[k][i]...) : shared).value(x[i], y[i]);
}

template <class F, class = void>
constexpr bool is_partial = false;
template <class F>
constexpr bool is_partial<F, std::void_t<typename F::Whole>> = !std::is_same_v<F, typename F::Whole>;

template <class F, bool Columns, class T = typename F::T>
NNK_HD void forward_loop(const Rows& rows, const T* parameters, const T* x, T* y, int64_t count) {
  const T* at[F::K];
  for (int k = 0; k < F::K; ++k) at[k] = rows.of(parameters, k);
  if constexpr (is_partial<F>) {
    if (!F::template suffices<Columns>(at[0], x, count)) {
      return forward_loop<typename F::Whole, Columns>(rows, parameters, x, y, count);
    }
  }
  forward_over<F, Columns>(UpTo<F::K>(), at, x, y, count);
}

template <class F, bool Columns, class T = typename F::T>
NNK_WAITS_FOR_MEMORY void light_forward_loop(const Rows& rows, const T* parameters, const T* x, T* y, int64_t count) {
  forward_loop<F, Columns>(rows, parameters, x, y, count);
}

template <class F, class T, int... k, int... sum>
NNK_HD void backward_over_row(Indices<k...>, Indices<sum...>, const T* const* at, const T* grad, const T* x,
                              T* grad_input, T* const* sums, int64_t count) {
  const F f(at[k][0]...);
  // Named one by one, since gcc keeps no array of reductions in registers.
  T s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3, s4, s5, s6, s7)
  for (int64_t i = 0; i < count; ++i) {
    const T g = grad[i], v = x[i];
    grad_input[i] = f.gradient(g, v, grad_input[i]);
    s0 += f.template share<0>(g, v);
    if constexpr (F::Sums > 1) s1 += f.template share<1>(g, v);
    if constexpr (F::Sums > 2) s2 += f.template share<2>(g, v);
    if constexpr (F::Sums > 3) s3 += f.template share<3>(g, v);
    if constexpr (F::Sums > 4) s4 += f.template share<4>(g, v), s5 += f.template share<5>(g, v);
    if constexpr (F::Sums > 6) s6 += f.template share<6>(g, v), s7 += f.template share<7>(g, v);
  }
  const T found[] = {s0, s1, s2, s3, s4, s5, s6, s7};
  ((*sums[sum] += found[sum]), ...);
}

template <class F, bool Columns, class T, int... k>
NNK_HD void backward_over(Indices<k...>, const T* const* at, const T* grad, const T* x, T* grad_input, int64_t count) {
  const T* const from[] = {at[k]...};
  const F shared(from[k][0]...);
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    grad_input[i] = (Columns ? F(from[k][i]...) : shared).gradient(grad[i], x[i], grad_input[i]);
  }
}

template <class F, class T, int... k, int... sum>
NNK_HD void backward_over_columns(Indices<k...>, Indices<sum...>, const T* const* at, const T* grad, const T* x,
                                  T* grad_input, T* const* sums, int64_t count) {
  const T* const from[] = {at[k]...};
  T* const to[] = {sums[sum]...};
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const F f(from[k][i]...);
    const T g = grad[i], v = x[i];
    grad_input[i] = f.gradient(g, v, grad_input[i]);
    ((to[sum][i] += f.template share<sum>(g, v)), ...);
  }
}

template <class F, bool Columns, bool Sums, class T = typename F::T>
void backward_loop(const Rows& rows, const T* parameters, const T* grad, const T* x, T* grad_input, T* sums,
                   int64_t count) {
  const UpTo<F::K> all;
  const UpTo<F::Sums> summed;
  const T* at[F::K];
  T* to[F::Sums];
  for (int k = 0; k < F::K; ++k) at[k] = rows.of(parameters, k);
  for (int k = 0; k < F::Sums; ++k) to[k] = Sums ? rows.of(sums, k) : nullptr;
  if constexpr (is_partial<F>) {
    if (!F::template suffices<Columns>(at[0], x, count)) {
      return backward_loop<typename F::Whole, Columns, Sums>(rows, parameters, grad, x, grad_input, sums, count);
    }
  }
  if constexpr (!Sums) {
    backward_over<F, Columns>(all, at, grad, x, grad_input, count);
  } else if constexpr (Columns) {
    backward_over_columns<F>(all, summed, at, grad, x, grad_input, to, count);
  } else {
    backward_over_row<F>(all, summed, at, grad, x, grad_input, to, count);
  }
}

template <class T>
using Forward = void (*)(const Rows&, const T* parameters, const T* x, T* y, int64_t count);
template <class T>
using Backward = void (*)(const Rows&, const T* parameters, const T* grad, const T* x, T* grad_input, T* sums, int64_t);

template <bool Columns>
struct ForwardLoops {
  template <class F>
  static constexpr Forward<typename F::T> loop = F::light ? light_forward_loop<F, Columns> : forward_loop<F, Columns>;
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
  const auto alone = [&](Loop loop) { return std::vector<Step<Loop>>{{loop, {{0, 1, 2, 3}, job.channels}}}; };
  switch (job.activation) {
    case Learned::prelu: return alone(Loops::template loop<Prelu<M>>);
    case Learned::swish: return alone(Loops::template loop<Swish<M>>);
    case Learned::xielu: return alone(Loops::template loop<Xielu<M>>);
    case Learned::snake: return alone(Loops::template loop<Snake<M>>);
    case Learned::snake_beta: return alone(Loops::template loop<SnakeBeta<M>>);
    case Learned::starrelu: return alone(Loops::template loop<StarReLU<M>>);
    case Learned::dyt: return alone(Loops::template loop<DynamicTanh<M>>);
    case Learned::apl: break;
  }
  std::vector<Step<Loop>> steps;
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

// Calls visit(partial, channel, offsets, count) for each run of adjacent elements of the items: `partial` counts pairs
// of an outer and an inner block, `channel` is the (first) channel, `offsets` are the operands'.
template <int operands, class Enter, class Visit>
void each_run(const LearnedJob& job, int64_t begin, int64_t end, Enter enter, Visit visit) {
  const int64_t channel_blocks = job.channel_blocks(), inner_blocks = job.inner_blocks();
  for (int64_t item = begin; item < end; ++item) {
    const int64_t partial = item / channel_blocks;
    const int64_t c0 = item % channel_blocks * job.channel_block,
                  cs = at_most_left(job.channel_block, c0, job.channels);
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
              step.loop(step.rows, parameters + channel + at, wide_grad, wide_x, wide, Sums ? sums + at : nullptr,
                        size);
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
