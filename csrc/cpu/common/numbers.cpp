#include "../numbers.h"

#include "../convert.h"

namespace nnk {

using namespace NNK_ISA;

double Numbers::of_16_bits(int64_t i) const {
  return scalar == Scalar::bf16 ? widen_one(static_cast<const BFloat16*>(data)[i])
                                : widen_one(static_cast<const Half*>(data)[i]);
}

void Numbers::set_16_bits(int64_t i, float x) const {
  if (scalar == Scalar::bf16) {
    static_cast<BFloat16*>(data)[i] = narrow_one(x, BFloat16());
  } else {
    static_cast<Half*>(data)[i] = narrow_one(x, Half());
  }
}

}  // namespace nnk
