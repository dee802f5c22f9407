// One loop over the units of a row: backward finds the gates again, by forward's operations.
#include "recurrent.h"

#include <type_traits>

#include "../smooth.h"
#include "stored.h"

namespace nnk::NNK_ISA {
namespace {

constexpr int64_t kTile = 512;

enum Block : int { kReset, kKeep, kCandidate, kBlocks };

template <class S>
using PolicyOf = std::conditional_t<sizeof(S) == 8, Double, std::conditional_t<sizeof(S) == 4, Single, Fast>>;

// The units [first, first + count) of a block of a row.
template <class S, class T>
const T* read_block(const Operand& from, int64_t row, int64_t at, T* room, int64_t count) {
  return read<S>(from.data, row * from.row_stride + at, room, count);
}

template <class S, class T>
T* place_block(const Operand& to, int64_t row, int64_t at, T* room) {
  return place<S>(to.data, row * to.row_stride + at, room);
}

template <class S, class T>
void write_block(const T* from, const Operand& to, int64_t row, int64_t at, int64_t count) {
  write<S>(from, to.data, row * to.row_stride + at, count);
}

// The three blocks of a row of `given` and `recurred`, and the state before.
template <class S>
struct Units {
  using T = typename Stored<S>::T;
  alignas(64) T rooms[7][kTile];
  const T *given[3], *recurred[3], *hidden;

  void load(const GruJob& job, int64_t row, int64_t first, int64_t count) {
    for (int block = 0; block < kBlocks; ++block) {
      const int64_t at = block * job.width + first;
      given[block] = read_block<S>(job.given, row, at, rooms[block], count);
      recurred[block] = read_block<S>(job.recurred, row, at, rooms[3 + block], count);
    }
    hidden = read_block<S>(job.hidden, row, first, rooms[6], count);
  }
};

template <class M, class T = typename M::T>
void advance(const T* const* given, const T* const* recurred, const T* hidden, T* next, int64_t count) {
  const T *xr = given[kReset], *xz = given[kKeep], *xn = given[kCandidate];
  const T *hr = recurred[kReset], *hz = recurred[kKeep], *hn = recurred[kCandidate];
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const T r = Odds<M>(xr[i] + hr[i]).sigmoid(), z = Odds<M>(xz[i] + hz[i]).sigmoid();
    const T n = tanh<M>(0, 0).value(madd(r, hn[i], xn[i]));
    next[i] = madd(z, hidden[i] - n, n);
  }
}

template <class M, class T = typename M::T>
void pull(const T* const* given, const T* const* recurred, const T* hidden, const T* grad, T* const* for_given,
          T* for_past, T* for_hidden, int64_t count) {
  const T *xr = given[kReset], *xz = given[kKeep], *xn = given[kCandidate];
  const T *hr = recurred[kReset], *hz = recurred[kKeep], *hn = recurred[kCandidate];
  T *for_reset = for_given[kReset], *for_keep = for_given[kKeep], *for_candidate = for_given[kCandidate];
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const T g = grad[i], past = hn[i];
    const Logistic<M> reset(xr[i] + hr[i]), keep(xz[i] + hz[i]);
    const T r = reset.positive ? reset.r : reset.e * reset.r, z = keep.positive ? keep.r : keep.e * keep.r;
    const T left = keep.positive ? keep.e * keep.r : keep.r;  // 1 - z, with its digits where z is almost 1
    const T sum = madd(r, past, xn[i]);
    // tanh and its derivative from one exponential: where n is small, no more than its difference to the state is
    // asked.
    const Exponential<M> tail(underflowing_product(T(-2), magnitude(sum)));
    const T e = tail.value(), q = reciprocal<M>(T(1) + e);
    const T n = with_sign((T(1) - e) * q, sum), candidate = tail.times(T(4) * g * left * (q * q));
    for_reset[i] = reset.slope(candidate * past);
    for_keep[i] = keep.slope(g * (hidden[i] - n));
    for_candidate[i] = candidate;
    for_past[i] = candidate * r;
    for_hidden[i] = g * z;
  }
}

template <class S>
void forward(const GruJob& job, int64_t row, int64_t first, int64_t count) {
  Units<S> units;
  units.load(job, row, first, count);
  alignas(64) typename Units<S>::T room[kTile];
  auto* next = place_block<S>(job.next, row, first, room);
  advance<PolicyOf<S>>(units.given, units.recurred, units.hidden, next, count);
  write_block<S>(next, job.next, row, first, count);
}

template <class S>
void backward(const GruJob& job, int64_t row, int64_t first, int64_t count) {
  using T = typename Units<S>::T;
  Units<S> units;
  units.load(job, row, first, count);
  alignas(64) T rooms[6][kTile];
  const T* grad = read_block<S>(job.grad, row, first, rooms[0], count);
  T* const for_given[] = {place_block<S>(job.for_given, row, first, rooms[1]),
                          place_block<S>(job.for_given, row, job.width + first, rooms[2]),
                          place_block<S>(job.for_given, row, 2 * job.width + first, rooms[3])};
  T* for_past = place_block<S>(job.for_recurred, row, 2 * job.width + first, rooms[4]);
  T* for_hidden = place_block<S>(job.for_hidden, row, first, rooms[5]);
  pull<PolicyOf<S>>(units.given, units.recurred, units.hidden, grad, for_given, for_past, for_hidden, count);
  for (int block = 0; block < kBlocks; ++block) {
    const int64_t at = block * job.width + first;
    write_block<S>(for_given[block], job.for_given, row, at, count);
    if (block != kCandidate)
      put<S>(for_given[block], job.for_recurred.data, row * job.for_recurred.row_stride + at, count);
  }
  write_block<S>(for_past, job.for_recurred, row, 2 * job.width + first, count);
  write_block<S>(for_hidden, job.for_hidden, row, first, count);
}

using Pass = void (*)(const GruJob& job, int64_t row, int64_t first, int64_t count);

void run(Pass pass, const GruJob& job, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t first = 0; first < job.width; first += kTile) {
      pass(job, row, first, job.width - first < kTile ? job.width - first : kTile);
    }
  }
}

}  // namespace

void gru_gates(const GruJob& job, int64_t begin, int64_t end) {
  switch (job.scalar) {
    case Scalar::f64: return run(forward<double>, job, begin, end);
    case Scalar::f32: return run(forward<float>, job, begin, end);
    case Scalar::bf16: return run(forward<BFloat16>, job, begin, end);
    case Scalar::f16: return run(forward<Half>, job, begin, end);
  }
}

void gru_gates_backward(const GruJob& job, int64_t begin, int64_t end) {
  switch (job.scalar) {
    case Scalar::f64: return run(backward<double>, job, begin, end);
    case Scalar::f32: return run(backward<float>, job, begin, end);
    case Scalar::bf16: return run(backward<BFloat16>, job, begin, end);
    case Scalar::f16: return run(backward<Half>, job, begin, end);
  }
}

}  // namespace nnk::NNK_ISA
