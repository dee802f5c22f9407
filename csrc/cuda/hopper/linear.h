// What the kernels of products on Hopper are told.
#pragma once

#include "../../kernels.h"

namespace nnk {

// A product of row-major matrices, (rows, depth) and `weight`'s, to which something is done where it ends. Their rows,
// and their memory, begin at multiples of 16 bytes.
struct ProductJob {
  int activation;  // index into the names that nnk_activation_names() lists
  Scalar scalar;   // bf16 or f16
  double a, b;     // the activation's parameters
  int64_t rows, cols, depth;
  const void *x, *weight;
};

// y = f(x W^T + b), W being (cols, depth).
struct LinearJob : ProductJob {
  const void* bias;  // (cols), at a multiple of 4 bytes; null: none
  void* y;           // (rows, cols)
  void* z;           // the same, for x W^T + b; null: not wanted
};

// d = (x W) f'(z), W being (depth, cols): the gradient of what an activation was given, x being that of the product
// behind.
struct SlopeJob : ProductJob {
  const void* z;  // (rows, cols)
  void* d;        // the same
  void* h;        // the same, for f(z); null: not wanted
  float* totals;  // (8 times ceil(rows / 256), cols): sums of d's columns over 32 rows each; null: not wanted
};

}  // namespace nnk

extern "C" {
// Queued on `stream` (a cudaStream_t) of the current device, of compute capability 9.0; each returns a cudaError_t.
int nnk_cuda_linear(const nnk::LinearJob* job, void* stream);
int nnk_cuda_slope(const nnk::SlopeJob* job, void* stream);

// Whether the activation has a kernel of the latter.
NNK_EXPORT int nnk_cuda_has_slope(int activation);
}
