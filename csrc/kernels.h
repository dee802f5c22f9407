// The seam between the kernels and the bindings. Nothing here knows torch: a kernel sees rows of adjacent elements.
#pragma once

#include <cstdint>

#if defined(_WIN32)
#define NNK_EXPORT __declspec(dllexport)
#else
#define NNK_EXPORT __attribute__((visibility("default")))
#endif

namespace nnk {

enum class Scalar : int { f64 = 0, f32 = 1, bf16 = 2, f16 = 3 };

// Which pass over the data; each lists its operands, inputs first.
enum class Pass : int {
  forward = 0,          // x -> y
  backward = 1,         // grad, x -> grad * f'(x)
  double_backward = 2,  // grad_grad, grad, x -> grad_grad * f'(x), grad_grad * grad * f''(x); on the CPU only
};

constexpr int kMaxOperands = 5;

struct Operand {
  void* data;
  int64_t row_stride;  // in elements; the elements of one row are adjacent
};

struct Job {
  Pass pass;
  int activation;  // index into the names that nnk_activation_names() lists
  Scalar scalar;
  double a, b;  // the activation's parameters, in the catalogue's order
  int64_t rows, cols;
  Operand operands[kMaxOperands];
};

}  // namespace nnk

extern "C" {
// Comma-separated names, in the order of their indices.
NNK_EXPORT const char* nnk_activation_names();

// The instruction set chosen when the library was loaded: "avx512", "avx2", "neon" or "baseline".
NNK_EXPORT const char* nnk_cpu_isa();

// Elements [begin, end) of the job, counted row by row. An output may be the very memory of an input.
NNK_EXPORT void nnk_cpu_run(const nnk::Job* job, int64_t begin, int64_t end);

// The whole job, queued on `stream` (a cudaStream_t) of the current device; returns a cudaError_t.
NNK_EXPORT int nnk_cuda_run(const nnk::Job* job, void* stream);
}
