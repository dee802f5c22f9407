// The operators of spiking neurons: steps x rows x cols of any strides, and rows x cols for what has no time.
#pragma once

#include <optional>

#include "../cpu/spiking.h"
#include "ops.h"

namespace nnk {

inline LifOperand lif_operand(const Tensor& t) {
  const auto strides = t.strides();
  return {t.mutable_data_ptr(), t.dim() == 3 ? strides[0] : 0, strides[t.dim() - 2], strides[t.dim() - 1]};
}

inline LifOperand lif_operand(const std::optional<Tensor>& t) { return t ? lif_operand(*t) : LifOperand{}; }

inline void check_lif_state(const Requirements& needs, const char* name, const std::optional<Tensor>& state,
                            const Tensor& current) {
  if (!state) return;
  needs.shape({name, *state}, {current.sizes()[1], current.sizes()[2]});
  needs.dtype({name, *state}, current.scalar_type());
}

inline void check_lif_current(const Requirements& needs, const Tensor& current) {
  needs.floating({"current", current});
  needs.that(current.dim() == 3, "current has shape ", Shape(current), ", expected steps x rows x cols");
}

inline LifJob lif_job(const Tensor& current, const std::optional<Tensor>& start, double decay, double threshold,
                      bool subtract) {
  LifJob job{};
  job.scalar = scalar_of(current);
  job.decay = decay, job.threshold = threshold, job.subtract = subtract;
  job.steps = current.sizes()[0], job.cols = current.sizes()[2], job.neurons = current.sizes()[1] * job.cols;
  job.current = lif_operand(current), job.start = lif_operand(start);
  return job;
}

template <class Kernel>
void run_lif(const LifJob& job, Kernel kernel) {
  if (job.neurons == 0) return;
  constexpr int64_t kGrain = 32768;  // numbers for each thread, as ATen's elementwise loops take
  const int64_t tiles = (job.neurons + kLifTile - 1) / kLifTile;
  const int64_t grain = kGrain / (kLifTile * (job.steps + 1));
  torch::stable::parallel_for(0, tiles, grain > 0 ? grain : 1, [&](int64_t begin, int64_t end) {
    kernel(job, begin * kLifTile, end * kLifTile < job.neurons ? end * kLifTile : job.neurons);
  });
}

inline void lif_op(const Tensor& current, std::optional<Tensor> start, Tensor spikes, std::optional<Tensor> potential,
                   double decay, double threshold, bool subtract) {
  const Requirements needs("lif");
  check_lif_current(needs, current);
  needs.alike({"spikes", spikes}, {"current", current});
  check_lif_state(needs, "start", start, current);
  check_lif_state(needs, "potential", potential, current);
  needs.apart({"spikes", spikes}, {"current", current});
  if (start) needs.apart({"spikes", spikes}, {"start", *start});
  if (potential) needs.apart({"potential", *potential}, {"spikes", spikes});

  LifJob job = lif_job(current, start, decay, threshold, subtract);
  job.spikes = lif_operand(spikes), job.potential = lif_operand(potential);
  run_lif(job, [](const LifJob& job, int64_t begin, int64_t end) { lif(job, begin, end); });
}

inline void lif_backward_op(const Tensor& grad, std::optional<Tensor> grad_potential, const Tensor& current,
                            std::optional<Tensor> start, Tensor grad_current, std::optional<Tensor> grad_start,
                            double decay, double threshold, int64_t surrogate, double slope, bool subtract,
                            bool detach_reset) {
  const Requirements needs("lif_backward");
  check_lif_current(needs, current);
  needs.in_range("surrogate", surrogate, 0, static_cast<int64_t>(Surrogate::sigmoid));
  needs.alike({"grad", grad}, {"current", current});
  needs.alike({"grad_current", grad_current}, {"current", current});
  check_lif_state(needs, "grad_potential", grad_potential, current);
  check_lif_state(needs, "start", start, current);
  check_lif_state(needs, "grad_start", grad_start, current);
  needs.apart({"grad_current", grad_current}, {"current", current});
  needs.apart({"grad_current", grad_current}, {"grad", grad});
  if (start) needs.apart({"grad_current", grad_current}, {"start", *start});
  if (grad_start) needs.apart({"grad_start", *grad_start}, {"grad_current", grad_current});

  LifJob job = lif_job(current, start, decay, threshold, subtract);
  job.surrogate = static_cast<Surrogate>(surrogate), job.slope = slope, job.detach = detach_reset;
  job.spikes = lif_operand(grad), job.potential = lif_operand(grad_potential);
  job.grad_current = lif_operand(grad_current), job.grad_start = lif_operand(grad_start);
  run_lif(job, [](const LifJob& job, int64_t begin, int64_t end) { lif_backward(job, begin, end); });
}

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def(
      "lif(Tensor current, Tensor? start, Tensor(a!) spikes, Tensor(b!)? potential, float decay, float threshold, "
      "bool subtract) -> ()");
  m.def(
      "lif_backward(Tensor grad, Tensor? grad_potential, Tensor current, Tensor? start, Tensor(a!) grad_current, "
      "Tensor(b!)? grad_start, float decay, float threshold, int surrogate, float slope, bool subtract, "
      "bool detach_reset) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("lif", TORCH_BOX(&lif_op));
  m.impl("lif_backward", TORCH_BOX(&lif_backward_op));
}

}  // namespace nnk
