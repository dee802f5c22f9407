#include "elementwise.h"

#include "launching.h"

namespace nnk {
namespace {

// Inputs come first, then `outputs` outputs.
template <size_t N>
void launch(const Requirements& needs, Pass pass, int64_t activation, double a, double b,
            std::array<Tensor, N> operands, size_t outputs) {
  const Geometry geometry = rows_of(needs, operands, outputs);
  if (geometry.rows * geometry.cols == 0) return;
  const Tensor& y = operands[N - 1];
  Job job{pass, static_cast<int>(activation), scalar_of(y), a, b, geometry.rows, geometry.cols, {}};
  for (size_t i = 0; i < N; ++i) job.operands[i] = {operands[i].mutable_data_ptr(), geometry.row_strides[i]};
  run(job, y.get_device_index());
}

}  // namespace

Tensor forward(const Tensor& x, int64_t activation, double a, double b) {
  const Requirements needs("forward");
  needs.activation(activation);
  needs.floating({"x", x});

  Tensor y = allocate_like(x);
  launch<2>(needs, Pass::forward, activation, a, b, {x, y}, 1);
  return y;
}

void forward_(Tensor x, int64_t activation, double a, double b) {
  const Requirements needs("forward_");
  needs.activation(activation);
  needs.floating({"x", x});

  launch<2>(needs, Pass::forward, activation, a, b, {x, x}, 2);
}

Tensor backward(const Tensor& grad, const Tensor& x, int64_t activation, double a, double b) {
  const Requirements needs("backward");
  needs.activation(activation);
  needs.floating({"x", x});
  needs.alike({"grad", grad}, {"x", x});

  Tensor grad_input = allocate_like(x);
  launch<3>(needs, Pass::backward, activation, a, b, {grad, x, grad_input}, 1);
  return grad_input;
}

std::tuple<Tensor, Tensor> double_backward(const Tensor& grad_grad, const Tensor& grad, const Tensor& x,
                                           int64_t activation, double a, double b) {
  const Requirements needs("double_backward");
  needs.activation(activation);
  needs.floating({"x", x});
  needs.alike({{"grad", grad}, {"grad_grad", grad_grad}}, {"x", x});

  Tensor for_grad = allocate_like(x), for_x = allocate_like(x);
  launch<5>(needs, Pass::double_backward, activation, a, b, {grad_grad, grad, x, for_grad, for_x}, 2);
  return {for_grad, for_x};
}

}  // namespace nnk
