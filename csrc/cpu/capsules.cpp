// Votes are read a block of capsules at a time, which stays in the first-level cache while their agreement is found,
// normalised and summed with. No agreement is kept from round to round: it is linear in the votes, so that its sum over
// the rounds is the votes' product with the sum of the capsules above.
#include "capsules.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <type_traits>

#include "../exponentials.h"
#include "convert.h"

namespace nnk::NNK_ISA {
namespace {

constexpr int64_t kBlock = 32;   // capsules below
constexpr int64_t kLines = 256;  // vectors that are squashed together

// y = value x, and grad x = value grad + slope (x . grad) x, told the square of a vector's length.
template <class T>
struct Squash {
  T value, slope;
  explicit Squash(T square) {
    const T tiny = std::numeric_limits<T>::min();
    const T length = std::sqrt(square < tiny ? tiny : square), below = T(1) / (T(1) + square);
    value = length * below;
    slope = (T(1) - square) * below * below / length;
  }
};

// kSize: 0 is any number.
template <int kSize, class S, class R>
inline auto dot(const S* x, const R* y, int64_t size) {
  decltype(number(*x)) total = 0;
  if constexpr (kSize != 0) size = kSize;
#pragma omp simd reduction(+ : total)
  for (int64_t k = 0; k < size; ++k) total = madd(number(x[k]), number(y[k]), total);
  return total;
}

// Of vectors whose numbers lie side by side; the roots and quotients of a block of them are found together.
template <class Stored, class T, int kSize, bool backward>
void squash_rows(const SquashJob& job, int64_t begin, int64_t end) {
  const int64_t size = kSize ? kSize : job.size;
  for (; begin < end; begin += kLines) {
    const int64_t count = end - begin < kLines ? end - begin : kLines;
    const Stored *x = static_cast<const Stored*>(job.x) + begin * size, *grad = static_cast<const Stored*>(job.grad);
    if constexpr (backward) grad += begin * size;
    Stored* out = static_cast<Stored*>(job.out) + begin * size;
    T square[kLines], along[kLines];
    for (int64_t i = 0; i < count; ++i) {
      square[i] = dot<kSize>(x + i * size, x + i * size, size);
      if constexpr (backward) along[i] = dot<kSize>(x + i * size, grad + i * size, size);
    }
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      const Squash<T> squash(square[i]);
      square[i] = squash.value;
      if constexpr (backward) along[i] *= squash.slope;
    }
    for (int64_t i = 0; i < count; ++i) {
#pragma GCC ivdep
      for (int64_t k = i * size; k < (i + 1) * size; ++k) {
        if constexpr (backward) {
          out[k] = stored(madd(along[i], number(x[k]), square[i] * number(grad[k])), Stored());
        } else {
          out[k] = stored(square[i] * number(x[k]), Stored());
        }
      }
    }
  }
}

// Of vectors that lie number by number.
template <class Stored, class T, bool backward>
void squash_lines(const SquashJob& job, int64_t begin, int64_t end) {
  for (int64_t line = begin; line < end;) {
    const int64_t col = line % job.inner, at = line / job.inner * job.size * job.inner + col;
    int64_t count = job.inner - col < end - line ? job.inner - col : end - line;
    count = count < kLines ? count : kLines;
    const Stored *x = static_cast<const Stored*>(job.x) + at, *grad = static_cast<const Stored*>(job.grad);
    Stored* out = static_cast<Stored*>(job.out) + at;
    T square[kLines] = {}, along[kLines] = {};
    for (int64_t k = 0; k < job.size; ++k) {
      const Stored* now = x + k * job.inner;
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) square[i] = madd(number(now[i]), number(now[i]), square[i]);
      if constexpr (backward) {
        const Stored* given = grad + at + k * job.inner;
#pragma GCC ivdep
        for (int64_t i = 0; i < count; ++i) along[i] = madd(number(now[i]), number(given[i]), along[i]);
      }
    }
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      const Squash<T> squash(square[i]);
      square[i] = squash.value, along[i] *= squash.slope;
    }
    for (int64_t k = 0; k < job.size; ++k) {
      const Stored *now = x + k * job.inner, *given = grad + at + k * job.inner;
      Stored* to = out + k * job.inner;
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) {
        if constexpr (backward) {
          to[i] = stored(madd(along[i], number(now[i]), square[i] * number(given[i])), Stored());
        } else {
          to[i] = stored(square[i] * number(now[i]), Stored());
        }
      }
    }
    line += count;
  }
}

template <class Stored, class T, bool backward>
void squash_of(const SquashJob& job, int64_t begin, int64_t end) {
  if (job.inner != 1) return squash_lines<Stored, T, backward>(job, begin, end);
  switch (job.size) {
    case 8: return squash_rows<Stored, T, 8, backward>(job, begin, end);
    case 16: return squash_rows<Stored, T, 16, backward>(job, begin, end);
    default: return squash_rows<Stored, T, 0, backward>(job, begin, end);
  }
}

template <bool backward>
void squash_any(const SquashJob& job, int64_t begin, int64_t end) {
  switch (job.scalar) {
    case Scalar::f64: return squash_of<double, double, backward>(job, begin, end);
    case Scalar::f32: return squash_of<float, float, backward>(job, begin, end);
    case Scalar::bf16: return squash_of<BFloat16, float, backward>(job, begin, end);
    case Scalar::f16: return squash_of<Half, float, backward>(job, begin, end);
  }
}

template <class Stored, class M, int kSize>
class Router {
  using T = typename M::T;

 public:
  explicit Router(const RouteJob& job)
      : job_(job),
        size_(kSize ? kSize : job.size),
        numbers_(job.above * size_),
        room_(new T[(kBlock + 4) * numbers_ + kBlock * job.above]),
        totals_(new double[numbers_]),
        votes_(room_.get()),
        heard_(votes_ + kBlock * numbers_),
        sums_(heard_ + numbers_),
        out_(sums_ + numbers_),
        grad_(out_ + numbers_),
        shares_(grad_ + numbers_) {}

  void forward(int64_t batch) {
    for (int64_t k = 0; k < numbers_; ++k) heard_[k] = 0;
    for (int64_t round = 0; round < job_.rounds; ++round) {
      const bool last = round == job_.rounds - 1;
      for (int64_t k = 0; k < numbers_; ++k) totals_[k] = 0;
      for (int64_t first = 0; first < job_.below; first += kBlock) {
        sum_block(batch, first, round == 0);
        if (last && job_.shares) copy(shares_, kept_shares(batch, first), block(first) * job_.above);
      }
      for (int64_t k = 0; k < numbers_; ++k) sums_[k] = static_cast<T>(totals_[k]);
      if (last && job_.sums) copy(sums_, kept_sums(batch), numbers_);
      for (int64_t a = 0; a < job_.above; ++a) {
        const T* sum = sums_ + a * size_;
        const T value = Squash<T>(dot<kSize>(sum, sum, size_)).value;
        for (int64_t k = 0; k < size_; ++k) out_[a * size_ + k] = value * sum[k];
      }
      for (int64_t k = 0; k < numbers_; ++k) heard_[k] += out_[k];
    }
    write(out_, job_.capsules, batch, 0);
  }

  void backward(int64_t batch) {
    const T *given = read(job_.capsules, batch, 0, out_), *sums = kept_sums(batch), *shares = kept_shares(batch, 0);
    for (int64_t a = 0; a < job_.above; ++a) {
      const T *sum = sums + a * size_, *grad = given + a * size_;
      const Squash<T> squash(dot<kSize>(sum, sum, size_));
      const T along = squash.slope * dot<kSize>(sum, grad, size_);
      for (int64_t k = 0; k < size_; ++k) grad_[a * size_ + k] = madd(along, sum[k], squash.value * grad[k]);
    }
    for (int64_t i = 0; i < job_.below; ++i) {
      T* out = adjacent(job_.grad_votes) ? in_place(at(job_.grad_votes, batch, i), out_) : out_;
      for (int64_t a = 0; a < job_.above; ++a) {
        const T share = shares[i * job_.above + a], *grad = grad_ + a * size_;
        T* to = out + a * size_;
#pragma GCC ivdep
        for (int64_t k = 0; k < size_; ++k) to[k] = share * grad[k];
      }
      if (out == out_) write(out_, job_.grad_votes, batch, i);
    }
  }

 private:
  const RouteJob& job_;
  const int64_t size_, numbers_;
  const std::unique_ptr<T[]> room_;
  const std::unique_ptr<double[]> totals_;  // sums over blocks, in which neither their number nor that of threads shows
  T *votes_, *heard_, *sums_, *out_, *grad_, *shares_;

  static void copy(const T* from, T* to, int64_t count) {
    for (int64_t k = 0; k < count; ++k) to[k] = from[k];
  }

  // Where numbers can be written as they are computed; else `room`.
  static T* in_place(T* data, T*) { return data; }
  template <class Other>
  static T* in_place(Other*, T* room) {
    return room;
  }

  T* kept_shares(int64_t batch, int64_t below) const {
    return static_cast<T*>(job_.shares) + (batch * job_.below + below) * job_.above;
  }
  T* kept_sums(int64_t batch) const { return static_cast<T*>(job_.sums) + batch * numbers_; }

  int64_t block(int64_t first) const { return job_.below - first < kBlock ? job_.below - first : kBlock; }

  Stored* at(const CapsuleOperand& operand, int64_t batch, int64_t below) const {
    return static_cast<Stored*>(operand.data) + batch * operand.batch + below * operand.below;
  }

  bool adjacent(const CapsuleOperand& operand) const {
    return operand.number == 1 && (operand.above == size_ || job_.above == 1);
  }

  // Where the numbers of a capsule for all above lie, or `room`.
  const T* read(const CapsuleOperand& from, int64_t batch, int64_t below, T* room) const {
    const Stored* data = at(from, batch, below);
    if (adjacent(from)) {
      if constexpr (std::is_same_v<Stored, T>) return data;
      for (int64_t k = 0; k < numbers_; ++k) room[k] = number(data[k]);
      return room;
    }
    for (int64_t a = 0; a < job_.above; ++a) {
      for (int64_t k = 0; k < size_; ++k) room[a * size_ + k] = number(data[a * from.above + k * from.number]);
    }
    return room;
  }

  void write(const T* from, const CapsuleOperand& to, int64_t batch, int64_t below) const {
    Stored* data = at(to, batch, below);
    if (adjacent(to)) {
      for (int64_t k = 0; k < numbers_; ++k) data[k] = stored(from[k], Stored());
      return;
    }
    for (int64_t a = 0; a < job_.above; ++a) {
      for (int64_t k = 0; k < size_; ++k) data[a * to.above + k * to.number] = stored(from[a * size_ + k], Stored());
    }
  }

  void agree(const T* votes, int64_t i) const {
    for (int64_t a = 0; a < job_.above; ++a) {
      shares_[i * job_.above + a] = dot<kSize>(heard_ + a * size_, votes + a * size_, size_);
    }
  }

  // The softmax of each capsule's agreement with those above.
  void share(int64_t count, bool alike) const {
    const int64_t above = job_.above;
    if (alike) {
      for (int64_t i = 0; i < count * above; ++i) shares_[i] = T(1) / T(above);
      return;
    }
    for (int64_t i = 0; i < count; ++i) {
      T* share = shares_ + i * above;
      T top = share[0];
      for (int64_t a = 1; a < above; ++a) top = share[a] > top ? share[a] : top;
      for (int64_t a = 0; a < above; ++a) share[a] -= top;
    }
#pragma GCC ivdep
    for (int64_t i = 0; i < count * above; ++i) shares_[i] = Exponential<M>(shares_[i]).value();
    for (int64_t i = 0; i < count; ++i) {
      T* share = shares_ + i * above;
      T whole = 0;
      for (int64_t a = 0; a < above; ++a) whole += share[a];
      const T inverse = T(1) / whole;
      for (int64_t a = 0; a < above; ++a) share[a] *= inverse;
    }
  }

  void sum_block(int64_t batch, int64_t first, bool alike) const {
    const int64_t count = block(first);
    const T* votes[kBlock];
    for (int64_t i = 0; i < count; ++i) {
      votes[i] = read(job_.votes, batch, first + i, votes_ + i * numbers_);
      if (!alike) agree(votes[i], i);
    }
    share(count, alike);
    for (int64_t a = 0; a < job_.above; ++a) {
      T* sum = sums_ + a * size_;
      for (int64_t k = 0; k < size_; ++k) sum[k] = 0;
      for (int64_t i = 0; i < count; ++i) {
        const T share = shares_[i * job_.above + a];
        const T* vote = votes[i] + a * size_;
#pragma GCC ivdep
        for (int64_t k = 0; k < size_; ++k) sum[k] = madd(share, vote[k], sum[k]);
      }
    }
    for (int64_t k = 0; k < numbers_; ++k) totals_[k] += sums_[k];
  }
};

template <class Stored, class M, int kSize, bool backward>
void route_sized(const RouteJob& job, int64_t begin, int64_t end) {
  Router<Stored, M, kSize> router(job);
  for (; begin < end; ++begin) backward ? router.backward(begin) : router.forward(begin);
}

template <class Stored, class M, bool backward>
void route_of(const RouteJob& job, int64_t begin, int64_t end) {
  switch (job.size) {
    case 8: return route_sized<Stored, M, 8, backward>(job, begin, end);
    case 16: return route_sized<Stored, M, 16, backward>(job, begin, end);
    default: return route_sized<Stored, M, 0, backward>(job, begin, end);
  }
}

template <bool backward>
void route_any(const RouteJob& job, int64_t begin, int64_t end) {
  switch (job.scalar) {
    case Scalar::f64: return route_of<double, Double, backward>(job, begin, end);
    case Scalar::f32: return route_of<float, Single, backward>(job, begin, end);
    case Scalar::bf16: return route_of<BFloat16, Single, backward>(job, begin, end);
    case Scalar::f16: return route_of<Half, Single, backward>(job, begin, end);
  }
}

}  // namespace

void squash(const SquashJob& job, int64_t begin, int64_t end) { squash_any<false>(job, begin, end); }
void squash_backward(const SquashJob& job, int64_t begin, int64_t end) { squash_any<true>(job, begin, end); }
void route(const RouteJob& job, int64_t begin, int64_t end) { route_any<false>(job, begin, end); }
void route_backward(const RouteJob& job, int64_t begin, int64_t end) { route_any<true>(job, begin, end); }

}  // namespace nnk::NNK_ISA
