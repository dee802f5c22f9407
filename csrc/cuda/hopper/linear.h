// What a product's kernel on Hopper is told.
#pragma once

#include "../../kernels.h"

namespace nnk {

// y = f(x W^T + b) of row-major matrices whose rows, and whose memory, begin at multiples of 16 bytes.
struct LinearJob {
  int activation;  // index into the names that nnk_activation_names() lists
  Scalar scalar;   // bf16 or f16
  double a, b;     // the activation's parameters
  int64_t rows, cols, depth;
  const void *x, *weight;  // (rows, depth) and (cols, depth)
  const void* bias;        // (cols), at a multiple of 4 bytes; null: none
  void* y;                 // (rows, cols)
  void* z;                 // the same, for x W^T + b; null: not wanted
};

}  // namespace nnk

// Queued on `stream` (a cudaStream_t) of the current device, of compute capability 9.0; returns a cudaError_t.
extern "C" int nnk_cuda_linear(const nnk::LinearJob* job, void* stream);
