// Products of matrices with an activation where they end, on GPUs of compute capability 9.0.
#include "../../cuda/hopper/linear.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "../checks.h"
#include "stream.h"

namespace nnk {
namespace {

// What both kernels ask of the matrices, of which the weight is (cols, depth), or if it is `row_major` (depth, cols);
// and what both are told.
ProductJob product_of(const Requirements& needs, const Tensor& x, const Tensor& weight, bool row_major,
                      int64_t activation, double a, double b) {
  needs.activation(activation);
  const ScalarType type = x.scalar_type();
  needs.that(type == ScalarType::BFloat16 || type == ScalarType::Half, "x is ", name_of(type),
             ", expected bfloat16 or float16");
  needs.matrix({"x", x});
  needs.matrix({"weight", weight});
  const int64_t rows = x.size(0), depth = x.size(1), cols = weight.size(row_major);
  needs.numbers({"x", x}, {rows, depth}, type);
  needs.numbers({"weight", weight}, {row_major ? depth : cols, row_major ? cols : depth}, type);
  needs.that(depth % 8 == 0 && cols % 8 == 0, "rows of ", depth, " and ", cols, " numbers, expected multiples of 8");
  for (const int64_t size : {rows, depth, cols}) needs.in_range("a size", size, 0, INT32_MAX);
  needs.that(depth > 0, "sums of no numbers");
  return {static_cast<int>(activation), scalar_of(x), a, b, rows, cols, depth, data_of(x), data_of(weight)};
}

void starts_at(const Requirements& needs, std::initializer_list<const void*> starts, int multiple) {
  for (const void* start : starts) {
    needs.that(reinterpret_cast<uintptr_t>(start) % multiple == 0, "memory does not begin at a multiple of ", multiple,
               " bytes");
  }
}

template <class Job>
void launch(const Requirements& needs, int (*kernel)(const Job*, void*), const Job& job, const Tensor& x) {
  const int device = x.get_device_index();
  torch::stable::accelerator::DeviceGuard guard(device);
  const int error = kernel(&job, current_stream(device));
  needs.that(error == 0, "CUDA error ", error, " when launching a kernel on device ", device);
}

void linear_act_op(Tensor y, OptionalTensor z, const Tensor& x, const Tensor& weight, OptionalTensor bias,
                   int64_t activation, double a, double b) {
  const Requirements needs("linear_act");
  LinearJob job{product_of(needs, x, weight, false, activation, a, b), data_of(bias), data_of(y), data_of(z)};
  needs.vector({"bias", bias}, job.cols, x.scalar_type());
  needs.numbers({"y", y}, {job.rows, job.cols}, x.scalar_type());
  needs.numbers({"z", z}, {job.rows, job.cols}, x.scalar_type());
  needs.apart({{"y", y}, {"z", z}}, {{"x", x}, {"weight", weight}, {"bias", bias}});
  if (z) needs.apart({"y", y}, {"z", *z});
  if (y.numel() == 0) return;
  starts_at(needs, {job.x, job.weight, job.y, job.z}, 16);
  starts_at(needs, {job.bias}, 4);
  launch(needs, nnk_cuda_linear, job, x);
}

void linear_act_backward_op(Tensor d, OptionalTensor h, OptionalTensor totals, const Tensor& grad, const Tensor& weight,
                            const Tensor& z, int64_t activation, double a, double b) {
  const Requirements needs("linear_act_backward");
  SlopeJob job{product_of(needs, grad, weight, true, activation, a, b), data_of(z), data_of(d), data_of(h),
               static_cast<float*>(data_of(totals))};
  const ScalarType type = grad.scalar_type();
  needs.numbers({"z", z}, {job.rows, job.cols}, type);
  needs.numbers({"d", d}, {job.rows, job.cols}, type);
  needs.numbers({"h", h}, {job.rows, job.cols}, type);
  needs.numbers({"totals", totals}, {(job.rows + 255) / 256 * 8, job.cols}, ScalarType::Float);
  needs.apart({{"d", d}, {"h", h}, {"totals", totals}}, {{"grad", grad}, {"weight", weight}, {"z", z}});
  if (h) needs.apart({"d", d}, {"h", *h});
  if (d.numel() == 0) return;
  starts_at(needs, {job.x, job.weight, job.z, job.d, job.h, job.totals}, 16);
  launch(needs, nnk_cuda_slope, job, grad);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def(
      "linear_act(Tensor(a!) y, Tensor(b!)? z, Tensor x, Tensor weight, Tensor? bias, int activation, float a, "
      "float b) -> ()");
  m.def(
      "linear_act_backward(Tensor(a!) d, Tensor(b!)? h, Tensor(c!)? totals, Tensor grad, Tensor weight, Tensor z, "
      "int activation, float a, float b) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CUDA, m) {
  m.impl("linear_act", TORCH_BOX(&linear_act_op));
  m.impl("linear_act_backward", TORCH_BOX(&linear_act_backward_op));
}

}  // namespace nnk
