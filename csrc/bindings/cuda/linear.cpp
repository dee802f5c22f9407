// Products of matrices with an activation where they end, on GPUs of compute capability 9.0.
#include "../../cuda/hopper/linear.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "../checks.h"
#include "stream.h"

namespace nnk {
namespace {

void linear_act_op(Tensor y, OptionalTensor z, const Tensor& x, const Tensor& weight, OptionalTensor bias,
                   int64_t activation, double a, double b) {
  const Requirements needs("linear_act");
  needs.activation(activation);
  const ScalarType type = x.scalar_type();
  needs.that(type == ScalarType::BFloat16 || type == ScalarType::Half, "x is ", name_of(type),
             ", expected bfloat16 or float16");
  needs.matrix({"x", x});
  needs.matrix({"weight", weight});
  const int64_t rows = x.size(0), depth = x.size(1), cols = weight.size(0);
  needs.numbers({"x", x}, {rows, depth}, type);
  needs.numbers({"weight", weight}, {cols, depth}, type);
  needs.vector({"bias", bias}, cols, type);
  needs.numbers({"y", y}, {rows, cols}, type);
  needs.numbers({"z", z}, {rows, cols}, type);
  needs.that(depth % 8 == 0 && cols % 8 == 0, "rows of ", depth, " and ", cols, " numbers, expected multiples of 8");
  for (const int64_t size : {rows, depth, cols}) needs.in_range("a size", size, 0, INT32_MAX);
  needs.apart({{"y", y}, {"z", z}}, {{"x", x}, {"weight", weight}, {"bias", bias}});
  if (z) needs.apart({"y", y}, {"z", *z});
  if (y.numel() == 0) return;
  needs.that(depth > 0, "sums of no numbers");

  const LinearJob job{static_cast<int>(activation),
                      scalar_of(x),
                      a,
                      b,
                      rows,
                      cols,
                      depth,
                      data_of(x),
                      data_of(weight),
                      data_of(bias),
                      data_of(y),
                      data_of(z)};
  for (const void* start : {job.x, job.weight, static_cast<const void*>(job.y), static_cast<const void*>(job.z)}) {
    needs.that(reinterpret_cast<uintptr_t>(start) % 16 == 0, "a matrix does not begin at a multiple of 16 bytes");
  }
  needs.that(reinterpret_cast<uintptr_t>(job.bias) % 4 == 0, "bias does not begin at a multiple of 4 bytes");
  const int device = x.get_device_index();
  torch::stable::accelerator::DeviceGuard guard(device);
  const int error = nnk_cuda_linear(&job, current_stream(device));
  needs.that(error == 0, "CUDA error ", error, " when launching a kernel on device ", device);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def(
      "linear_act(Tensor(a!) y, Tensor(b!)? z, Tensor x, Tensor weight, Tensor? bias, int activation, float a, "
      "float b) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CUDA, m) { m.impl("linear_act", TORCH_BOX(&linear_act_op)); }

}  // namespace nnk
