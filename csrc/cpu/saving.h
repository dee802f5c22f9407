// Derivatives kept in a few bits. Element i has the bits from i * bits on, the lowest bit of a byte first.
#pragma once

#include "../kernels.h"
#include "isa.h"

namespace nnk {

struct QuantisedJob {
  int activation;
  Scalar scalar;
  double a, b;
  int bits;          // 1, 4 or 8
  double low, high;  // the derivatives that the least and the greatest code stand for
  bool masks;        // whether a derivative of 0 makes a gradient of 0, whatever comes from above
  const void* in;    // forward: x; backward: grad
  void* out;         // forward: y; backward: grad_input
  uint8_t* packed;   // forward writes it, backward reads it
};

// Activations whose derivative is 1, or else prelu's weight or the slope that rrelu drew: a bit for each element says
// which, set where it is not 1.
struct SignsJob {
  Scalar scalar;
  const void* in;   // forward: x; backward: grad
  void* out;        // forward: y; backward: grad_input
  uint8_t* packed;  // forward writes it, backward reads it
  bool draws;       // rrelu, otherwise prelu
  uint64_t seed;    // of rrelu; slope = scale * number + offset, as cpu/random.h has it
  double scale, offset;
  const void* weights;  // of prelu: floats (doubles for f64), element i's being number i / inner % channels
  int64_t channels, inner;
};

// Where a range may begin, in elements.
constexpr int64_t kQuantisedTile = 512;

}  // namespace nnk

NNK_KERNEL(quantised_forward, (const QuantisedJob& job, int64_t begin, int64_t end), (job, begin, end))
NNK_KERNEL(quantised_backward, (const QuantisedJob& job, int64_t begin, int64_t end), (job, begin, end))
NNK_KERNEL(signs_forward, (const SignsJob& job, int64_t begin, int64_t end), (job, begin, end))
NNK_KERNEL(signs_backward, (const SignsJob& job, int64_t begin, int64_t end), (job, begin, end))
