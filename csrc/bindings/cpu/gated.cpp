// The gated activations.
#include "../../cpu/gated.h"

#include <torch/csrc/stable/library.h>

#include "../launching.h"

namespace nnk {
namespace {

// Inputs come first, then `outputs` outputs.
template <size_t N>
void launch_gated(const Requirements& needs, GatedJob job, std::array<Tensor, N> operands, size_t outputs) {
  Geometry geometry;
  int64_t steps[N];
  if (operands[0].numel() == 0) return;
  line_up(needs, operands, outputs, [&](auto dims, auto sizes, auto strides, auto n) {
    return plan_with_steps(dims, sizes, strides, n, &geometry, steps);
  });
  job.scalar = scalar_of(operands[0]);
  job.rows = geometry.rows;
  job.cols = geometry.cols;
  for (size_t i = 0; i < N; ++i) {
    job.operands[i] = {operands[i].mutable_data_ptr(), geometry.row_strides[i], steps[i]};
  }
  in_parallel(job.rows * job.cols, 1, [&](int64_t begin, int64_t end) { gated(job, begin, end); });
}

void gated_forward(const Tensor& gate, const Tensor& up, Tensor y, int64_t activation, double a, double b, double limit,
                   double offset, bool limits_value, double gate_cap, double up_cap) {
  const Requirements needs("gated");
  needs.activation(activation);
  needs.floating({"gate", gate});
  needs.alike({{"up", up}, {"y", y}}, {"gate", gate});
  needs.apart_or_same({{"y", y}}, {{"gate", gate}, {"up", up}});
  needs.that(gate_cap > 0 && up_cap > 0, "gate_cap and up_cap are ", gate_cap, " and ", up_cap,
             ", expected them above 0");

  launch_gated<3>(
      needs,
      {false, static_cast<int>(activation), Scalar::f32, a, b, limit, offset, limits_value, gate_cap, up_cap, 0, 0, {}},
      {gate, up, y}, 1);
}

void gated_backward(const Tensor& grad, const Tensor& gate, const Tensor& up, Tensor grad_gate, Tensor grad_up,
                    int64_t activation, double a, double b, double limit, double offset, bool limits_value,
                    double gate_cap, double up_cap) {
  const Requirements needs("gated_backward");
  const Argument for_gate{"grad_gate", grad_gate}, for_up{"grad_up", grad_up};
  needs.activation(activation);
  needs.floating({"gate", gate});
  needs.alike({{"grad", grad}, {"up", up}, for_gate, for_up}, {"gate", gate});
  needs.apart_or_same({for_gate, for_up}, {{"grad", grad}, {"gate", gate}, {"up", up}});
  needs.apart(for_gate, for_up);
  needs.that(gate_cap > 0 && up_cap > 0, "gate_cap and up_cap are ", gate_cap, " and ", up_cap,
             ", expected them above 0");

  launch_gated<5>(
      needs,
      {true, static_cast<int>(activation), Scalar::f32, a, b, limit, offset, limits_value, gate_cap, up_cap, 0, 0, {}},
      {grad, gate, up, grad_gate, grad_up}, 2);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def(
      "gated(Tensor gate, Tensor up, Tensor(a!) y, int activation, float a, float b, float limit, float offset, "
      "bool limits_value, float gate_cap, float up_cap) -> ()");
  m.def(
      "gated_backward(Tensor grad, Tensor gate, Tensor up, Tensor(a!) grad_gate, Tensor(b!) grad_up, int activation, "
      "float a, float b, float limit, float offset, bool limits_value, float gate_cap, float up_cap) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("gated", TORCH_BOX(&gated_forward));
  m.impl("gated_backward", TORCH_BOX(&gated_backward));
}

}  // namespace nnk
