// Seeds of what is drawn at random, and the threshold below which an element is dropped.
#pragma once

#include "checks.h"

namespace nnk {

inline void check_seed(const Requirements& needs, const Argument& seed) {
  needs.elements(seed, 1);
  needs.dtype(seed, ScalarType::Long);
}

inline uint64_t seed_of(const Tensor& seed) {
  return static_cast<uint64_t>(*static_cast<const int64_t*>(seed.const_data_ptr()));
}

inline void check_threshold(const Requirements& needs, int64_t threshold) {
  needs.in_range("threshold", threshold, 0, UINT32_MAX);
}

}  // namespace nnk
