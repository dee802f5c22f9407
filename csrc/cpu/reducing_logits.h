// softmax's logits: what a mask and the sign of the scale leave of the input.
#pragma once

#include "reducing_rows.h"

namespace nnk::NNK_ISA {

// The scale's sign goes to the input, so that the maximum is always wanted.
template <class T>
void negate(T* z, int64_t count) {
  for (int64_t i = 0; i < count; ++i) z[i] = -z[i];
}

template <class T>
void drop(const uint8_t* keep, int64_t stride, T* z, int64_t count) {
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) z[i] = keep[i] ? z[i] : -Range<T>::infinity;
  } else {
    for (int64_t i = 0; i < count; ++i) z[i] = keep[i * stride] ? z[i] : -Range<T>::infinity;
  }
}

// scale z + mask in two parts; where it is so large that its error is no small number, in one.
template <class T>
NNK_HD void add_one(T scale, T mask, T* z, T* lo) {
  const T product = scale * *z, sum = product + mask, back = sum - product;
  const T error = (product - (sum - back)) + (mask - back) + product_error(scale, *z, product);
  *z = sum;
  *lo = magnitude(sum) < Range<T>::exact_below ? error : T(0);
}

template <class T>
void add(const T* mask, int64_t stride, T scale, T* z, T* lo, int64_t count) {
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) add_one(scale, mask[i], z + i, lo + i);
  } else {
    for (int64_t i = 0; i < count; ++i) add_one(scale, mask[i * stride], z + i, lo + i);
  }
}

inline int64_t mask_offset(const Mask& mask, int64_t outer) {
  int64_t offset = 0;
  for (int digit = kMaskDigits - 1; digit >= 0; --digit) {
    offset += outer % mask.sizes[digit] * mask.strides[digit];
    outer /= mask.sizes[digit];
  }
  return offset;
}

// `count` logits from `x`: x itself where nothing is to be done, else written to z, and their errors to lo.
template <class Job, class S, class T>
const T* logits(const Job& job, const S* x, int64_t mask_at, int64_t mask_stride, T* z, T* lo, int64_t count) {
  const bool negative = job.scale < 0, adds = job.mask.kind == MaskKind::add;
  if constexpr (std::is_same_v<S, T>) {
    if (!negative && job.mask.kind == MaskKind::none) return x;
  }
  widen(x, z, count);
  if (adds) {
    add(static_cast<const T*>(job.mask.data) + mask_at, mask_stride, T(job.scale), z, lo, count);
    return z;
  }
  if (negative) negate(z, count);
  if (job.mask.kind == MaskKind::keep) {
    drop(static_cast<const uint8_t*>(job.mask.data) + mask_at, mask_stride, z, count);
  }
  return z;
}

}  // namespace nnk::NNK_ISA
