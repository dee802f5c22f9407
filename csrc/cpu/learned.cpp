// A formula has K parameters: `value(x, before)`, `gradient(grad, x, before)` for x, and `share<k>(grad, x)` for
// parameter k, `before` being what an earlier group of segments left. A row has one set of parameters, which stay in
// registers, and its shares are a reduction; columns have one set each.
#include "learned.h"

#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "../gates.h"
#include "convert.h"

namespace nnk::NNK_ISA {
namespace {

constexpr int64_t kTile = 1024;

template <int... k>
using Indices = std::integer_sequence<int, k...>;
template <int count>
using UpTo = std::make_integer_sequence<int, count>;

// x if x > 0 else weight x.
template <class M>
struct Prelu {
  using T = typename M::T;
  static constexpr int K = 1;
  static constexpr bool light = true;  // done before memory is
  T weight;
  explicit NNK_HD Prelu(T weight) : weight(weight) {}

  NNK_HD T value(T x, T) const { return x > T(0) ? x : weight * x; }
  NNK_HD T gradient(T grad, T x, T) const { return x > T(0) ? grad : weight * grad; }
  template <int>
  NNK_HD T share(T grad, T x) const {
    const T product = grad * x;
    return x > T(0) ? T(0) : product;
  }
};

// x sigmoid(beta x).
template <class M>
struct Swish {
  using T = typename M::T;
  static constexpr int K = 1;
  static constexpr bool light = false;
  Gate<M, ScaledArgument<M>> gate;
  explicit NNK_HD Swish(T beta) : gate{ScaledArgument<M>({beta, T(0)})} {}

  NNK_HD T value(T x, T) const { return gate.value(x); }
  NNK_HD T gradient(T grad, T x, T) const { return grad * gate.d1(x); }

  // x^2 sigmoid'(beta x). x e^-|z| stays held up by half of the exponential's scale until x has entered twice.
  template <int>
  NNK_HD T share(T grad, T x) const {
    x = gate.argument.bounded(x);
    const auto z = gate.argument.z(x);
    const Logistic<M> s(z.hi, z.lo);
    const T ratio = divide<M>(x, square_of_one_plus(s.e));
    if constexpr (!M::precise) return grad * (s.tail.times(ratio) * x);
    constexpr T unit = Float<T>::subnormal_unit, half = sizeof(T) == 4 ? T(0x1p-32) : T(0x1p-256);
    const T high = madd(ratio, s.tail.reduced.tail, ratio) * s.tail.reduced.scale;
    const bool large = magnitude(x) > T(1) / half;
    return grad * (high * (large ? unit : half) * x * (large ? T(1) : half));
  }
};

// G of the segments, slopes first; the first group brings max(0, x), the others add to what is there. The share of an
// offset still lacks its slope.
template <class M, int G, bool First>
struct Apl {
  using T = typename M::T;
  static constexpr int K = 2 * G;
  static constexpr bool light = false;
  T p[K];
  template <class... Parameters>
  explicit NNK_HD Apl(Parameters... p) : p{p...} {}

  NNK_HD T value(T x, T before) const { return add(UpTo<G>(), x, First ? at_least(x, T(0)) : before); }
  NNK_HD T gradient(T grad, T x, T before) const {
    return subtract(UpTo<G>(), grad, x, First ? (x <= T(0) ? T(0) : grad) : before);
  }
  template <int k>
  NNK_HD T share(T grad, T x) const {
    const T distance = p[G + k % G] - x, passed = distance <= T(0) ? T(0) : grad;
    return k < G ? passed * at_least(distance, T(0)) : passed;
  }

 private:
  template <int... s>
  NNK_HD T add(Indices<s...>, T x, T y) const {
    ((y = madd(p[s], at_least(p[G + s] - x, T(0)), y)), ...);
    return y;
  }
  template <int... s>
  NNK_HD T subtract(Indices<s...>, T grad, T x, T sum) const {
    ((sum = madd(-p[s], share<G + s>(grad, x), sum)), ...);
    return sum;
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

template <class F, bool Columns, class T, int... k>
NNK_HD void forward_over(Indices<k...>, const T* const* at, const T* x, T* y, int64_t count) {
  const T* const from[] = {at[k]...};
  const F shared(from[k][0]...);
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) y[i] = (Columns ? F(from[k][i]...) : shared).value(x[i], y[i]);
}

template <class F, bool Columns, class T = typename F::T>
NNK_HD void forward_loop(const Rows& rows, const T* parameters, const T* x, T* y, int64_t count) {
  const T* at[F::K];
  for (int k = 0; k < F::K; ++k) at[k] = rows.of(parameters, k);
  forward_over<F, Columns>(UpTo<F::K>(), at, x, y, count);
}

template <class F, bool Columns, class T = typename F::T>
NNK_WAITS_FOR_MEMORY void light_forward_loop(const Rows& rows, const T* parameters, const T* x, T* y, int64_t count) {
  forward_loop<F, Columns>(rows, parameters, x, y, count);
}

template <class F, class T, int... k>
NNK_HD void backward_over_row(Indices<k...>, const T* const* at, const T* grad, const T* x, T* grad_input,
                              T* const* sums, int64_t count) {
  const F f(at[k][0]...);
  // Named one by one, since gcc keeps no array of reductions in registers.
  T s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3, s4, s5, s6, s7)
  for (int64_t i = 0; i < count; ++i) {
    const T g = grad[i], v = x[i];
    grad_input[i] = f.gradient(g, v, grad_input[i]);
    s0 += f.template share<0>(g, v);
    if constexpr (F::K > 1) s1 += f.template share<1>(g, v);
    if constexpr (F::K > 2) s2 += f.template share<2>(g, v), s3 += f.template share<3>(g, v);
    if constexpr (F::K > 4) s4 += f.template share<4>(g, v), s5 += f.template share<5>(g, v);
    if constexpr (F::K > 6) s6 += f.template share<6>(g, v), s7 += f.template share<7>(g, v);
  }
  const T found[] = {s0, s1, s2, s3, s4, s5, s6, s7};
  ((*sums[k] += found[k]), ...);
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

template <class F, class T, int... k>
NNK_HD void backward_over_columns(Indices<k...>, const T* const* at, const T* grad, const T* x, T* grad_input,
                                  T* const* sums, int64_t count) {
  const T* const from[] = {at[k]...};
  T* const to[] = {sums[k]...};
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const F f(from[k][i]...);
    const T g = grad[i], v = x[i];
    grad_input[i] = f.gradient(g, v, grad_input[i]);
    ((to[k][i] += f.template share<k>(g, v)), ...);
  }
}

template <class F, bool Columns, bool Sums, class T = typename F::T>
void backward_loop(const Rows& rows, const T* parameters, const T* grad, const T* x, T* grad_input, T* sums,
                   int64_t count) {
  const UpTo<F::K> all;
  const T* at[F::K];
  T* to[F::K];
  for (int k = 0; k < F::K; ++k) at[k] = rows.of(parameters, k), to[k] = Sums ? rows.of(sums, k) : nullptr;
  if constexpr (!Sums) {
    backward_over<F, Columns>(all, at, grad, x, grad_input, count);
  } else if constexpr (Columns) {
    backward_over_columns<F>(all, at, grad, x, grad_input, to, count);
  } else {
    backward_over_row<F>(all, at, grad, x, grad_input, to, count);
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
