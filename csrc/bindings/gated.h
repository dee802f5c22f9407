// The operators of the gated activations.
#pragma once

#include "../cpu/gated.h"
#include "ops.h"

namespace nnk {

// Operands as rows of elements that lie `step` apart, which `plan` sees as adjacent. Steps are those of the dimension
// that is innermost in the last operand. An operand expanded from one number joins as the last one lies.
template <size_t N>
bool fits_with_steps(const std::array<Tensor, N>& operands, Geometry* geometry, int64_t (&steps)[N]) {
  const int dims = static_cast<int>(operands[0].dim());
  if (dims > kMaxDims) return false;
  const int64_t* sizes = operands[0].sizes().data();
  const int64_t* last = operands[N - 1].strides().data();
  int inner = -1;
  for (int d = 0; d < dims; ++d) {
    if (sizes[d] > 1 && (inner < 0 || last[d] < last[inner])) inner = d;
  }
  int64_t counted[N][kMaxDims];
  const int64_t* strides[N];
  for (size_t i = N; i-- > 0;) {
    const int64_t* own = operands[i].strides().data();
    const int64_t step = inner < 0 ? 1 : own[inner];
    for (int d = 0; d < dims; ++d) {
      if (sizes[d] > 1 && (step ? own[d] % step : own[d])) return false;
      counted[i][d] = step ? own[d] / step : counted[N - 1][d];
    }
    steps[i] = step;
    strides[i] = counted[i];
  }
  return steps[N - 1] > 0 && plan(dims, sizes, strides, N, geometry);
}

// Inputs come first, then `outputs` outputs; inputs that do not lie as the outputs do are copied until they do.
template <size_t N>
void launch_gated(const Requirements& needs, GatedJob job, std::array<Tensor, N> operands, size_t outputs) {
  const Tensor y = operands[N - 1];
  Geometry geometry;
  int64_t steps[N];
  if (y.numel() == 0) return;
  for (size_t i = 0; !fits_with_steps(operands, &geometry, steps); ++i) {
    needs.that(i < N - outputs, "an output is neither dense nor made of dense rows");
    Tensor copy = allocate_like(y);
    torch::stable::copy_(copy, operands[i]);
    operands[i] = copy;
  }
  job.scalar = scalar_of(y);
  job.rows = geometry.rows;
  job.cols = geometry.cols;
  for (size_t i = 0; i < N; ++i) {
    job.operands[i] = {operands[i].mutable_data_ptr(), geometry.row_strides[i], steps[i]};
  }
  constexpr int64_t kGrain = 32768;  // as many elements for each thread as ATen's own loops give
  const int64_t elements = job.rows * job.cols;
  if (elements <= kGrain) {
    gated(job, 0, elements);
  } else {
    torch::stable::parallel_for(0, elements, kGrain, [&](int64_t begin, int64_t end) { gated(job, begin, end); });
  }
}

inline void gated_forward(const Tensor& gate, const Tensor& up, Tensor y, int64_t activation, double a, double b,
                          double limit, double offset) {
  const Requirements needs("gated");
  check_activation(needs, activation);
  needs.floating({"gate", gate});
  for (const Argument& a : {Argument{"up", up}, Argument{"y", y}}) needs.alike(a, {"gate", gate});
  for (const Argument& a : {Argument{"gate", gate}, Argument{"up", up}}) needs.apart_or_same({"y", y}, a);

  launch_gated<3>(needs, {false, static_cast<int>(activation), Scalar::f32, a, b, limit, offset, 0, 0, {}},
                  {gate, up, y}, 1);
}

inline void gated_backward(const Tensor& grad, const Tensor& gate, const Tensor& up, Tensor grad_gate, Tensor grad_up,
                           int64_t activation, double a, double b, double limit, double offset) {
  const Requirements needs("gated_backward");
  check_activation(needs, activation);
  needs.floating({"gate", gate});
  const Argument read[] = {{"grad", grad}, {"gate", gate}, {"up", up}};
  const Argument written[] = {{"grad_gate", grad_gate}, {"grad_up", grad_up}};
  for (const Argument& a : read) needs.alike(a, {"gate", gate});
  for (const Argument& a : written) {
    needs.alike(a, {"gate", gate});
    for (const Argument& other : read) needs.apart_or_same(a, other);
  }
  needs.apart(written[0], written[1]);

  launch_gated<5>(needs, {true, static_cast<int>(activation), Scalar::f32, a, b, limit, offset, 0, 0, {}},
                  {grad, gate, up, grad_gate, grad_up}, 2);
}

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def(
      "gated(Tensor gate, Tensor up, Tensor(a!) y, int activation, float a, float b, float limit, float offset) -> ()");
  m.def(
      "gated_backward(Tensor grad, Tensor gate, Tensor up, Tensor(a!) grad_gate, Tensor(b!) grad_up, int activation, "
      "float a, float b, float limit, float offset) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("gated", TORCH_BOX(&gated_forward));
  m.impl("gated_backward", TORCH_BOX(&gated_backward));
}

}  // namespace nnk
