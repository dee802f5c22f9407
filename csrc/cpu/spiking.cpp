// A tile of neurons walks through time with its potentials in the first-level cache. Backward walks there once more, by
// the very same operations, so that the neurons fire as they did, and then back.
#include "spiking.h"

#include <cstdint>
#include <type_traits>
#include <vector>

#include "../smooth.h"
#include "convert.h"

namespace nnk::NNK_ISA {
namespace {

// Neurons. Memory likes long runs, and backward its potentials of all steps in the second-level cache.
constexpr int64_t kForwardTile = 4096, kBackwardTile = 2048;
constexpr int64_t kPotentials = 65536;

int64_t backward_tile(int64_t steps) {
  const int64_t fits = kPotentials / (steps + 1) / 64 * 64;
  return fits < 64 ? 64 : fits < kBackwardTile ? fits : kBackwardTile;
}

// The neurons [begin, begin + count) of a job whose data are of type Stored and are computed with as T.
template <class Stored, class T, int64_t kTile>
class Tile {
 public:
  Tile(const LifJob& job, int64_t begin, int64_t count) : begin_(begin), count_(count), cols_(job.cols) {}

  // The numbers of a step: where they lie, or in `room`.
  const T* read(const LifOperand& from, int64_t step, T* room) const {
    if (const T* there = adjacent(from, step)) return there;
    for_each_run(from, step, [&](Stored* data, int64_t at, int64_t count) {
      if constexpr (!std::is_same_v<Stored, T>) {
        if (from.col == 1) return widen(data, room + at, count);
      }
      for (int64_t i = 0; i < count; ++i) room[at + i] = number(data[i * from.col]);
    });
    return room;
  }

  // write(where) puts the numbers of a step there.
  template <class Write>
  void write(const LifOperand& to, int64_t step, Write write) const {
    if (T* there = adjacent(to, step)) return write(there);
    T room[kTile];
    write(room);
    for_each_run(to, step, [&](Stored* data, int64_t at, int64_t count) {
      if constexpr (!std::is_same_v<Stored, T>) {
        if (to.col == 1) return narrow(room + at, data, count);
      }
      for (int64_t i = 0; i < count; ++i) data[i * to.col] = stored(room[at + i], Stored());
    });
  }

 private:
  const int64_t begin_, count_, cols_;

  // Null if they are of another type or not side by side.
  T* adjacent(const LifOperand& operand, int64_t step) const {
    if constexpr (std::is_same_v<Stored, T>) {
      const int64_t col = begin_ % cols_;
      if (operand.col == 1 && col + count_ <= cols_) {
        return static_cast<T*>(operand.data) + step * operand.time + begin_ / cols_ * operand.row + col;
      }
    }
    return nullptr;
  }

  // body(where, from which of the tile's neurons on, how many) for the part of each row.
  template <class Body>
  void for_each_run(const LifOperand& operand, int64_t step, Body body) const {
    Stored* data = static_cast<Stored*>(operand.data) + step * operand.time;
    for (int64_t at = 0; at < count_;) {
      const int64_t row = (begin_ + at) / cols_, col = (begin_ + at) % cols_;
      const int64_t left = count_ - at < cols_ - col ? count_ - at : cols_ - col;
      body(data + row * operand.row + col * operand.col, at, left);
      at += left;
    }
  }
};

template <class T, bool kSubtract>
struct Neuron {
  const T decay, threshold;
  explicit Neuron(const LifJob& job) : decay(static_cast<T>(job.decay)), threshold(static_cast<T>(job.threshold)) {}

  void advance(const T* before, const T* current, T* after, int64_t count) const {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      const T v = before[i], left = decay * v;
      const bool fired = v > threshold;
      if constexpr (kSubtract) {
        after[i] = left + current[i] - (fired ? threshold : T(0));
      } else {
        after[i] = (fired ? T(0) : left) + current[i];
      }
    }
  }

  // 1 where it fires, else 0; a NaN stays one.
  void fire(const T* potential, T* spikes, int64_t count) const {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      const T v = potential[i], still = v != v ? v : T(0);
      spikes[i] = v > threshold ? T(1) : still;
    }
  }
};

template <class M, Surrogate kSurrogate>
inline typename M::T surrogate(typename M::T z) {
  using T = typename M::T;
  if constexpr (kSurrogate == Surrogate::fast_sigmoid) {
    const T root = reciprocal<M>(T(1) + magnitude(z));
    return root * root;
  } else if constexpr (kSurrogate == Surrogate::arctan) {
    return reciprocal<M>(madd(z, z, T(1)));
  } else if constexpr (kSurrogate == Surrogate::triangular) {
    const T height = T(1) - magnitude(z);
    return height <= T(0) ? T(0) : height;
  } else {
    return T(4) * nnk::NNK_ISA::sigmoid<M>(0, 0).d1(z);
  }
}

// From the gradient at a potential, `carried` to the step after it, to that at the potential itself; `grad`, of the
// spikes, may be null, for the potential before the first step.
template <class M, Surrogate kSurrogate, bool kSubtract, bool kDetach>
void pull(const LifJob& job, const typename M::T* potential, const typename M::T* grad, typename M::T* carried,
          int64_t count) {
  using T = typename M::T;
  const T decay = static_cast<T>(job.decay), threshold = static_cast<T>(job.threshold);
  const T slope = static_cast<T>(job.slope);
  const auto pulled = [=](T v, T for_spike, T later) {
    T for_potential = decay * later;
    if constexpr (!kSubtract) for_potential = v > threshold ? T(0) : for_potential;
    if constexpr (!kDetach) for_spike -= later * (kSubtract ? threshold : decay * v);
    return madd(for_spike, surrogate<M, kSurrogate>(slope * (v - threshold)), for_potential);
  };
  if (grad) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) carried[i] = pulled(potential[i], grad[i], carried[i]);
  } else {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) carried[i] = pulled(potential[i], T(0), carried[i]);
  }
}

template <class T>
using Pull = void (*)(const LifJob&, const T*, const T*, T*, int64_t);

template <class M, Surrogate kSurrogate>
Pull<typename M::T> pull_of(const LifJob& job) {
  if (job.subtract) return job.detach ? pull<M, kSurrogate, true, true> : pull<M, kSurrogate, true, false>;
  return job.detach ? pull<M, kSurrogate, false, true> : pull<M, kSurrogate, false, false>;
}

template <class M>
Pull<typename M::T> pull_of(const LifJob& job) {
  switch (job.surrogate) {
    case Surrogate::fast_sigmoid: return pull_of<M, Surrogate::fast_sigmoid>(job);
    case Surrogate::arctan: return pull_of<M, Surrogate::arctan>(job);
    case Surrogate::triangular: return pull_of<M, Surrogate::triangular>(job);
    case Surrogate::sigmoid: break;
  }
  return pull_of<M, Surrogate::sigmoid>(job);
}

template <class T>
void copy(const T* from, T* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}

template <class Stored, class T, int64_t kTile>
void begin_with(const LifJob& job, const Tile<Stored, T, kTile>& tile, T* v, int64_t count) {
  if (job.start.data) {
    T room[kTile];
    return copy(tile.read(job.start, 0, room), v, count);
  }
  for (int64_t i = 0; i < count; ++i) v[i] = T(0);
}

// body(first neuron, how many) for each tile.
template <class Body>
void for_each_tile(int64_t size, int64_t begin, int64_t end, Body body) {
  for (; begin < end; begin += size) body(begin, end - begin < size ? end - begin : size);
}

template <class Stored, class T, bool kSubtract>
void run_forward(const LifJob& job, int64_t begin, int64_t end) {
  const Neuron<T, kSubtract> neuron(job);
  for_each_tile(kForwardTile, begin, end, [&](int64_t first, int64_t count) {
    const Tile<Stored, T, kForwardTile> tile(job, first, count);
    T v[kForwardTile], room[kForwardTile];
    begin_with(job, tile, v, count);
    for (int64_t t = 0; t < job.steps; ++t) {
      neuron.advance(v, tile.read(job.current, t, room), v, count);
      tile.write(job.spikes, t, [&](T* spikes) { neuron.fire(v, spikes, count); });
    }
    if (job.potential.data) tile.write(job.potential, 0, [&](T* potential) { copy(v, potential, count); });
  });
}

template <class Stored, class M, bool kSubtract>
void run_backward(const LifJob& job, int64_t begin, int64_t end) {
  using T = typename M::T;
  const Neuron<T, kSubtract> neuron(job);
  const auto pulled = pull_of<M>(job);
  const int64_t size = backward_tile(job.steps);
  std::vector<T> potentials((job.steps + 1) * size);
  for_each_tile(size, begin, end, [&](int64_t first, int64_t count) {
    const Tile<Stored, T, kBackwardTile> tile(job, first, count);
    T carried[kBackwardTile] = {}, room[kBackwardTile];
    T* v = potentials.data();
    begin_with(job, tile, v, count);
    for (int64_t t = 0; t < job.steps; ++t, v += size) {
      neuron.advance(v, tile.read(job.current, t, room), v + size, count);
    }
    for (int64_t t = job.steps; t-- > 0; v -= size) {
      pulled(job, v, tile.read(job.spikes, t, room), carried, count);
      if (t == job.steps - 1 && job.potential.data) {
        const T* last = tile.read(job.potential, 0, room);
        for (int64_t i = 0; i < count; ++i) carried[i] += last[i];
      }
      tile.write(job.grad_current, t, [&](T* grad) { copy(carried, grad, count); });
    }
    if (!job.grad_start.data) return;
    pulled(job, v, nullptr, carried, count);
    tile.write(job.grad_start, 0, [&](T* grad) { copy(carried, grad, count); });
  });
}

template <class Stored, class M>
void forward_of(const LifJob& job, int64_t begin, int64_t end) {
  using T = typename M::T;
  job.subtract ? run_forward<Stored, T, true>(job, begin, end) : run_forward<Stored, T, false>(job, begin, end);
}

template <class Stored, class M>
void backward_of(const LifJob& job, int64_t begin, int64_t end) {
  job.subtract ? run_backward<Stored, M, true>(job, begin, end) : run_backward<Stored, M, false>(job, begin, end);
}

}  // namespace

void lif(const LifJob& job, int64_t begin, int64_t end) {
  switch (job.scalar) {
    case Scalar::f64: return forward_of<double, Double>(job, begin, end);
    case Scalar::f32: return forward_of<float, Single>(job, begin, end);
    case Scalar::bf16: return forward_of<BFloat16, Fast>(job, begin, end);
    case Scalar::f16: return forward_of<Half, Fast>(job, begin, end);
  }
}

void lif_backward(const LifJob& job, int64_t begin, int64_t end) {
  switch (job.scalar) {
    case Scalar::f64: return backward_of<double, Double>(job, begin, end);
    case Scalar::f32: return backward_of<float, Single>(job, begin, end);
    case Scalar::bf16: return backward_of<BFloat16, Fast>(job, begin, end);
    case Scalar::f16: return backward_of<Half, Fast>(job, begin, end);
  }
}

}  // namespace nnk::NNK_ISA
