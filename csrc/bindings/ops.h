// The operators of torch.ops.nnkernels, written once for the CPU and the CUDA library over libtorch's stable ABI.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <initializer_list>
#include <string>
#include <tuple>

#include "../geometry.h"
#include "../kernels.h"
#include "allocation.h"
#include "checks.h"

namespace nnk {

// Defined by each library: runs the job on the device that the tensors live on.
void run(const Job& job, int device_index);

inline Scalar scalar_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case torch::headeronly::ScalarType::Double: return Scalar::f64;
    case torch::headeronly::ScalarType::Float: return Scalar::f32;
    case torch::headeronly::ScalarType::BFloat16: return Scalar::bf16;
    case torch::headeronly::ScalarType::Half: return Scalar::f16;
    default: break;
  }
  STD_TORCH_CHECK(false, "nnkernels: expected a float64, float32, bfloat16 or float16 tensor");
}

inline int count_activations() {
  static const int count = [] {
    int names = 1;
    for (const char* c = nnk_activation_names(); *c; ++c) names += *c == ',';
    return names;
  }();
  return count;
}

template <size_t N>
bool fits(const std::array<Tensor, N>& operands, Geometry* geometry) {
  const int64_t* strides[N];
  for (size_t i = 0; i < N; ++i) strides[i] = operands[i].strides().data();
  return plan(static_cast<int>(operands[0].dim()), operands[0].sizes().data(), strides, N, geometry);
}

inline void check_alike(const Tensor& t, const Tensor& x) {
  STD_TORCH_CHECK(t.sizes().equals(x.sizes()), "nnkernels: expected tensors of one shape");
  STD_TORCH_CHECK(t.scalar_type() == x.scalar_type(), "nnkernels: expected tensors of one dtype");
  STD_TORCH_CHECK(t.device() == x.device(), "nnkernels: expected tensors on one device");
}

inline void check_activation(const Requirements& needs, int64_t activation) {
  needs.activation(activation, count_activations());
}

// Inputs come first, then `outputs` outputs; an input that does not lie as the outputs do is copied until it does.
template <size_t N>
void launch(const Requirements& needs, Pass pass, int64_t activation, double a, double b,
            std::array<Tensor, N> operands, size_t outputs) {
  const Tensor& x = operands[N - outputs - 1];
  Geometry geometry;
  if (!fits(operands, &geometry)) {
    const size_t inputs = N - outputs;
    for (size_t i = 0; i < inputs; ++i) {
      Tensor copy = allocate_like(operands[N - 1]);
      torch::stable::copy_(copy, operands[i]);
      operands[i] = copy;
    }
    needs.that(fits(operands, &geometry), "the output is neither dense nor made of dense rows");
  }
  if (geometry.rows * geometry.cols == 0) return;
  Job job{pass, static_cast<int>(activation), scalar_of(x), a, b, geometry.rows, geometry.cols, {}};
  for (size_t i = 0; i < N; ++i) job.operands[i] = {operands[i].mutable_data_ptr(), geometry.row_strides[i]};
  run(job, x.get_device_index());
}

inline Tensor forward(const Tensor& x, int64_t activation, double a, double b) {
  const Requirements needs("forward");
  check_activation(needs, activation);
  needs.floating({"x", x});

  Tensor y = allocate_like(x);
  launch<2>(needs, Pass::forward, activation, a, b, {x, y}, 1);
  return y;
}

inline void forward_(Tensor x, int64_t activation, double a, double b) {
  const Requirements needs("forward_");
  check_activation(needs, activation);
  needs.floating({"x", x});

  launch<2>(needs, Pass::forward, activation, a, b, {x, x}, 1);
}

inline Tensor backward(const Tensor& grad, const Tensor& x, int64_t activation, double a, double b) {
  const Requirements needs("backward");
  check_activation(needs, activation);
  needs.floating({"x", x});
  needs.alike({"grad", grad}, {"x", x});

  Tensor grad_input = allocate_like(x);
  launch<3>(needs, Pass::backward, activation, a, b, {grad, x, grad_input}, 1);
  return grad_input;
}

inline std::tuple<Tensor, Tensor> double_backward(const Tensor& grad_grad, const Tensor& grad, const Tensor& x,
                                                  int64_t activation, double a, double b) {
  const Requirements needs("double_backward");
  check_activation(needs, activation);
  needs.floating({"x", x});
  needs.alike({"grad", grad}, {"x", x});
  needs.alike({"grad_grad", grad_grad}, {"x", x});

  Tensor for_grad = allocate_like(x), for_x = allocate_like(x);
  launch<5>(needs, Pass::double_backward, activation, a, b, {grad_grad, grad, x, for_grad, for_x}, 2);
  return {for_grad, for_x};
}

template <class Library>
void implement(Library& m) {
  m.impl("forward", TORCH_BOX(&forward));
  m.impl("forward_", TORCH_BOX(&forward_));
  m.impl("backward", TORCH_BOX(&backward));
}

}  // namespace nnk
