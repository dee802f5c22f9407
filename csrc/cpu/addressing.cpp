// A thread takes one memory after the other, which it copies with slots side by side: every loop then runs over slots,
// however short these are. Backward finds again what forward has found, by the same operations.
#include "addressing.h"

#include <cmath>
#include <cstdint>
#include <memory>

#include "../exponentials.h"
#include "convert.h"
#include "transpose.h"

namespace nnk::NNK_ISA {
namespace {

template <class T>
void copy(const T* from, T* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}

template <class T>
T sum(const T* x, int64_t count) {
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < count; ++i) total += x[i];
  return total;
}

template <class T>
T dot(const T* x, const T* y, int64_t count) {
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < count; ++i) total = madd(x[i], y[i], total);
  return total;
}

// The softmax of factor x in place of `z`, x = z + lo. The greatest passes over NaN, which its own difference brings
// back. What rounding took from the products and differences joins the exponents, which would magnify it.
template <class M, class Lo, class T = typename M::T>
void softmax(T factor, T* z, Lo lo, int64_t count) {
  T top = factor * z[0];
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < count; ++i) top = factor * z[i] > top ? factor * z[i] : top;
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const T scaled = factor * z[i], below = scaled - top;
    const T lost = product_error(factor, z[i], scaled) + difference_error(scaled, top, below);
    z[i] = Exponential<M>(below, madd(factor, lo(i), lost)).value();
  }
  const T inverse = T(1) / sum(z, count);
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) z[i] *= inverse;
}

// y (grad - sum(grad y)) in place of `grad`: the gradient of what y is the softmax of.
template <class T>
void softmax_backward(const T* y, T* grad, int64_t count) {
  const T mean = dot(y, grad, count);
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) grad[i] = y[i] * (grad[i] - mean);
}

// For a normal x > 0, with what rounding the sum took from it; infinity and NaN give NaN.
template <class M, class T = typename M::T>
inline Pair<T> logarithm(T x) {
  using F = Float<T>;
  using Bits = typename F::Bits;
  constexpr Bits mask = (Bits(1) << F::mantissa) - 1, one = Bits(F::bias) << F::mantissa;
  const Bits bits = bits_of<Bits>(x);
  const T above = bits_of<T>((bits & mask) | one) - T(1), exponent = T((bits >> F::mantissa) - F::bias);
  const T whole = exponent * F::ln2_hi, rest = madd(exponent, F::ln2_lo, above * log1p_ratio<M>(above));
  const T log = whole + rest;
  return {log + (x - x), (whole - log) + rest};
}

template <class Stored, class M>
class Addressing {
  using T = typename M::T;

 public:
  Addressing(const AddressingJob& job, bool backward)
      : job_(job),
        slots_(job.slots),
        pitch_(job.slots / kLine * kLine + 3 * kLine),
        reach_(job.parts[kShift].data ? job.width / 2 : 0),
        room_(new T[needed(job, backward)]) {
    T* next = room_.get();
    const auto take = [&next](int64_t count) { return (next += count) - count; };
    memory_ = take(pitch_ * job.size), key_ = take(job.size);
    T** rows[] = {&inverse_, &cosine_, &content_, &before_,     &mixed_, &turned_,     &logs_,
                  &where_,   &along_,  &grad_,    &grad_mixed_, &shift_, &grad_shift_, &lost_};
    static_assert(sizeof(rows) / sizeof(rows[0]) == kRows);
    for (T** row : rows) *row = take(slots_ + job.width);
    if (!backward) return;
    grad_memory_ = take(pitch_ * job.size), grad_key_ = take(job.size);
    grads_ = take(job.heads * slots_), keys_ = take(job.heads * job.size);
  }

  void forward(int64_t batch) {
    batch_ = batch;
    read_memory();
    for (head_ = 0; head_ < job_.heads; ++head_) {
      find();
      write(job_.where, where_, slots_);
    }
  }

  void backward(int64_t batch) {
    batch_ = batch;
    read_memory();
    for (int64_t i = 0; i < slots_; ++i) along_[i] = 0;
    for (head_ = 0; head_ < job_.heads; ++head_) {
      find();
      pull();
    }
    write_grad_memory();
  }

 private:
  // Numbers of a line of the cache, and a distance between rows that no power of two lies near.
  static constexpr int64_t kLine = 64 / sizeof(T);
  static constexpr int kRows = 14;

  const AddressingJob& job_;
  const int64_t slots_, pitch_, reach_;
  const std::unique_ptr<T[]> room_;
  int64_t batch_ = 0, head_ = 0;
  T *memory_, *inverse_, *grad_memory_ = nullptr;  // numbers x slots; one over the slots' lengths
  T *key_, *grad_key_ = nullptr;                   // of length 1, as are the slots whose gradient that is
  T *grads_ = nullptr, *keys_ = nullptr;           // of every head: of its cosines, and its key
  T *cosine_, *content_, *before_, *mixed_, *turned_, *logs_, *lost_,
      *where_;                                             // of one head; `mixed` wrapped, as `grad`
  T *along_, *grad_, *grad_mixed_, *shift_, *grad_shift_;  // `along`: the gradient of unit slots, along each of them
  T key_inverse_ = 0, strength_ = 0, gate_ = 0, sharpness_ = 0;

  int64_t needed(const AddressingJob& job, bool backward) const {
    const int64_t matrices = 1 + backward, heads = backward ? job.heads : 0;
    return matrices * (pitch_ + 1) * job.size + heads * (slots_ + job.size) + kRows * (slots_ + job.width);
  }

  bool has(AddressingPart part) const { return job_.parts[part].data; }

  Stored* at(const AddressingOperand& operand, int64_t row) const {
    return static_cast<Stored*>(operand.data) + batch_ * operand.batch + row * operand.row;
  }

  static void read(const Stored* from, int64_t step, T* to, int64_t count) {
    if (step == 1) {
      for (int64_t i = 0; i < count; ++i) to[i] = number(from[i]);
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] = number(from[i * step]);
    }
  }

  static void write(const T* from, Stored* to, int64_t step, int64_t count) {
    if (step == 1) {
      for (int64_t i = 0; i < count; ++i) to[i] = stored(from[i], Stored());
    } else {
      for (int64_t i = 0; i < count; ++i) to[i * step] = stored(from[i], Stored());
    }
  }

  // Of this head.
  void read(const AddressingOperand& from, T* to, int64_t count) const { read(at(from, head_), from.col, to, count); }
  T read(AddressingPart part) const { return number(*at(job_.parts[part], head_)); }
  void write(const AddressingOperand& to, const T* from, int64_t count) const {
    write(from, at(to, head_), to.col, count);
  }

  void write_gradient(AddressingPart part, const T* from, int64_t count) const {
    if (job_.gradients[part].data) write(job_.gradients[part], from, count);
  }

  void read_memory() {
    const AddressingOperand& from = job_.parts[kMemory];
    nnk::NNK_ISA::copy(Matrix<const Stored>{at(from, 0), from.row, from.col}, Matrix<T>{memory_, 1, pitch_}, slots_,
                       job_.size);
    for (int64_t i = 0; i < slots_; ++i) inverse_[i] = 0;
    for (int64_t d = 0; d < job_.size; ++d) {
      const T* m = memory_ + d * pitch_;
#pragma GCC ivdep
      for (int64_t i = 0; i < slots_; ++i) inverse_[i] = madd(m[i], m[i], inverse_[i]);
    }
    const T eps = static_cast<T>(job_.eps);
#pragma GCC ivdep
    for (int64_t i = 0; i < slots_; ++i) inverse_[i] = T(1) / std::sqrt(inverse_[i] + eps);
  }

  // to += the sum of factor[d] memory[d] over the numbers of a slot, four at a time.
  void weigh(const T* factor, T* to) const {
    const int64_t whole = job_.size / 4 * 4;
    const T* m = memory_;
    for (int64_t d = 0; d < whole; d += 4, m += 4 * pitch_) {
      const T f0 = factor[d], f1 = factor[d + 1], f2 = factor[d + 2], f3 = factor[d + 3];
      const T *m1 = m + pitch_, *m2 = m1 + pitch_, *m3 = m2 + pitch_;
#pragma GCC ivdep
      for (int64_t i = 0; i < slots_; ++i)
        to[i] = madd(f3, m3[i], madd(f2, m2[i], madd(f1, m1[i], madd(f0, m[i], to[i]))));
    }
    for (int64_t d = whole; d < job_.size; ++d, m += pitch_) {
      const T f = factor[d];
#pragma GCC ivdep
      for (int64_t i = 0; i < slots_; ++i) to[i] = madd(f, m[i], to[i]);
    }
  }

  // Where the head is.
  void find() {
    read(job_.parts[kKey], key_, job_.size);
    key_inverse_ = T(1) / std::sqrt(dot(key_, key_, job_.size) + static_cast<T>(job_.eps));
    for (int64_t d = 0; d < job_.size; ++d) key_[d] *= key_inverse_;
    strength_ = read(kStrength);
    for (int64_t i = 0; i < slots_; ++i) cosine_[i] = 0;
    weigh(key_, cosine_);
#pragma GCC ivdep
    for (int64_t i = 0; i < slots_; ++i) content_[i] = cosine_[i] *= inverse_[i];
    softmax<M>(strength_, content_, [](int64_t) { return T(0); }, slots_);

    T* mixed = mixed_ + reach_;
    if (has(kGate)) {
      gate_ = read(kGate);
      read(job_.parts[kPrevious], before_, slots_);
#pragma GCC ivdep
      for (int64_t i = 0; i < slots_; ++i) mixed[i] = madd(gate_, content_[i] - before_[i], before_[i]);
    } else {
      copy(content_, mixed, slots_);
    }

    if (has(kShift)) {
      read(job_.parts[kShift], shift_, job_.width);
      wrap(mixed_);
      turn(mixed_, turned_, /*back=*/false);
    } else {
      copy(mixed, turned_, slots_);
    }

    if (!has(kSharpness)) {
      copy(turned_, where_, slots_);
      return;
    }
    sharpness_ = read(kSharpness);
#pragma GCC ivdep
    for (int64_t i = 0; i < slots_; ++i) {
      const Pair<T> log = logarithm<M>(at_least(turned_[i], T(kAddressingFloor)));
      where_[i] = logs_[i] = log.hi, lost_[i] = log.lo;
    }
    softmax<M>(sharpness_, where_, [this](int64_t i) { return lost_[i]; }, slots_);
  }

  // Repeats the ends of what lies from padded[reach] on: the last slot is beside the first.
  void wrap(T* padded) const {
    for (int64_t k = 0; k < reach_; ++k) {
      padded[reach_ + slots_ + k] = padded[reach_ + k % slots_];
      padded[reach_ - 1 - k] = padded[reach_ + slots_ - 1 - k % slots_];
    }
  }

  // The sum of a row's copies, each as far ahead, or back, as its share says.
  void turn(const T* padded, T* to, bool back) const {
    for (int64_t i = 0; i < slots_; ++i) to[i] = 0;
    for (int64_t k = 0; k < job_.width; ++k) {
      const T share = shift_[k];
      const T* from = padded + (back ? k : 2 * reach_ - k);
#pragma GCC ivdep
      for (int64_t i = 0; i < slots_; ++i) to[i] = madd(share, from[i], to[i]);
    }
  }

  // From the gradient of where the head is to those of what has led it there.
  void pull() {
    T* grad = grad_ + reach_;
    read(job_.where, grad, slots_);

    if (has(kSharpness)) {
      softmax_backward(where_, grad, slots_);
      const T total = dot(grad, logs_, slots_);
      write_gradient(kSharpness, &total, 1);
#pragma GCC ivdep
      for (int64_t i = 0; i < slots_; ++i) {
        const T held = at_least(turned_[i], T(kAddressingFloor));
        grad[i] = turned_[i] < held ? T(0) : sharpness_ * grad[i] / held;
      }
    }
    const T* for_mixed = grad;
    if (has(kShift)) {
      for (int64_t k = 0; k < job_.width; ++k) grad_shift_[k] = dot(grad, mixed_ + 2 * reach_ - k, slots_);
      write_gradient(kShift, grad_shift_, job_.width);
      wrap(grad_);
      turn(grad_, grad_mixed_, /*back=*/true);
      for_mixed = grad_mixed_;
    }
    if (has(kGate)) {
      T total = 0;
#pragma omp simd reduction(+ : total)
      for (int64_t i = 0; i < slots_; ++i) total = madd(for_mixed[i], content_[i] - before_[i], total);
      write_gradient(kGate, &total, 1);
      const T rest = T(1) - gate_;
#pragma GCC ivdep
      for (int64_t i = 0; i < slots_; ++i) before_[i] = rest * for_mixed[i], grad[i] = gate_ * for_mixed[i];
      write_gradient(kPrevious, before_, slots_);
    } else if (for_mixed != grad) {
      copy(for_mixed, grad, slots_);
    }

    softmax_backward(content_, grad, slots_);
    const T total = dot(grad, cosine_, slots_);
    write_gradient(kStrength, &total, 1);
#pragma GCC ivdep
    for (int64_t i = 0; i < slots_; ++i) {
      grad[i] *= strength_;
      along_[i] = madd(grad[i], cosine_[i], along_[i]);
    }
    copy(grad, grads_ + head_ * slots_, slots_);
    copy(key_, keys_ + head_ * job_.size, job_.size);
    if (!job_.gradients[kKey].data) return;
    const T along = strength_ * total;
#pragma GCC ivdep
    for (int64_t i = 0; i < slots_; ++i) grad[i] *= inverse_[i];
    for (int64_t d = 0; d < job_.size; ++d) {
      grad_key_[d] = key_inverse_ * (dot(grad, memory_ + d * pitch_, slots_) - along * key_[d]);
    }
    write_gradient(kKey, grad_key_, job_.size);
  }

  void write_grad_memory() {
    const AddressingOperand& to = job_.gradients[kMemory];
    if (!to.data) return;
#pragma GCC ivdep
    for (int64_t i = 0; i < slots_; ++i) along_[i] *= inverse_[i];
    for (int64_t d = 0; d < job_.size; ++d) {
      T* grad = grad_memory_ + d * pitch_;
      const T* m = memory_ + d * pitch_;
      for (int64_t i = 0; i < slots_; ++i) grad[i] = 0;
      for (int64_t h = 0; h < job_.heads; ++h) {
        const T unit = keys_[h * job_.size + d], *cosines = grads_ + h * slots_;
#pragma GCC ivdep
        for (int64_t i = 0; i < slots_; ++i) grad[i] = madd(unit, cosines[i], grad[i]);
      }
#pragma GCC ivdep
      for (int64_t i = 0; i < slots_; ++i) grad[i] = inverse_[i] * (grad[i] - m[i] * along_[i]);
    }
    nnk::NNK_ISA::copy(Matrix<const T>{grad_memory_, pitch_, 1}, Matrix<Stored>{at(to, 0), to.col, to.row}, job_.size,
                       slots_);
  }
};

template <class Stored, class M>
void forward_of(const AddressingJob& job, int64_t begin, int64_t end) {
  Addressing<Stored, M> addressing(job, false);
  for (; begin < end; ++begin) addressing.forward(begin);
}

template <class Stored, class M>
void backward_of(const AddressingJob& job, int64_t begin, int64_t end) {
  Addressing<Stored, M> addressing(job, true);
  for (; begin < end; ++begin) addressing.backward(begin);
}

}  // namespace

void content_addressing(const AddressingJob& job, int64_t begin, int64_t end) {
  switch (job.scalar) {
    case Scalar::f64: return forward_of<double, Double>(job, begin, end);
    case Scalar::f32: return forward_of<float, Single>(job, begin, end);
    case Scalar::bf16: return forward_of<BFloat16, Single>(job, begin, end);
    case Scalar::f16: return forward_of<Half, Single>(job, begin, end);
  }
}

void content_addressing_backward(const AddressingJob& job, int64_t begin, int64_t end) {
  switch (job.scalar) {
    case Scalar::f64: return backward_of<double, Double>(job, begin, end);
    case Scalar::f32: return backward_of<float, Single>(job, begin, end);
    case Scalar::bf16: return backward_of<BFloat16, Single>(job, begin, end);
    case Scalar::f16: return backward_of<Half, Single>(job, begin, end);
  }
}

}  // namespace nnk::NNK_ISA
