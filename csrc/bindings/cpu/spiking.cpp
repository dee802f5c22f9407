// Spiking neurons: steps x rows x cols of any strides, and rows x cols for what has no time.
#include "../../cpu/spiking.h"

#include <torch/csrc/stable/library.h>

#include "../launching.h"

namespace nnk {
namespace {

LifOperand lif_operand(const Tensor& t) {
  const auto strides = t.strides();
  return {t.mutable_data_ptr(), t.dim() == 3 ? strides[0] : 0, strides[t.dim() - 2], strides[t.dim() - 1]};
}

LifOperand lif_operand(const OptionalTensor& t) { return t ? lif_operand(*t) : LifOperand{}; }

void check_lif_state(const Requirements& needs, const char* name, const OptionalTensor& state, const Tensor& current) {
  needs.shape({name, state}, {current.size(1), current.size(2)});
  needs.dtype({name, state}, current.scalar_type());
}

void check_lif_current(const Requirements& needs, const Tensor& current) {
  needs.floating({"current", current});
  needs.that(current.dim() == 3, "current has shape ", Shape(current), ", expected steps x rows x cols");
}

LifJob lif_job(const Tensor& current, const OptionalTensor& start, double decay, double threshold, bool subtract) {
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
  in_tiles(job.neurons, kLifTile, job.steps + 1, [&](int64_t begin, int64_t end) { kernel(job, begin, end); });
}

void lif_op(const Tensor& current, OptionalTensor start, Tensor spikes, OptionalTensor potential, double decay,
            double threshold, bool subtract) {
  const Requirements needs("lif");
  check_lif_current(needs, current);
  needs.alike({"spikes", spikes}, {"current", current});
  check_lif_state(needs, "start", start, current);
  check_lif_state(needs, "potential", potential, current);
  needs.apart({{"spikes", spikes}}, {{"current", current}, {"start", start}, {"potential", potential}});

  LifJob job = lif_job(current, start, decay, threshold, subtract);
  job.spikes = lif_operand(spikes), job.potential = lif_operand(potential);
  run_lif(job, lif);
}

void lif_backward_op(const Tensor& grad, OptionalTensor grad_potential, const Tensor& current, OptionalTensor start,
                     Tensor grad_current, OptionalTensor grad_start, double decay, double threshold, int64_t surrogate,
                     double slope, bool subtract, bool detach_reset) {
  const Requirements needs("lif_backward");
  check_lif_current(needs, current);
  needs.in_range("surrogate", surrogate, 0, static_cast<int64_t>(Surrogate::sigmoid));
  needs.alike({{"grad", grad}, {"grad_current", grad_current}}, {"current", current});
  check_lif_state(needs, "grad_potential", grad_potential, current);
  check_lif_state(needs, "start", start, current);
  check_lif_state(needs, "grad_start", grad_start, current);
  needs.apart({{"grad_current", grad_current}},
              {{"current", current}, {"grad", grad}, {"start", start}, {"grad_start", grad_start}});

  LifJob job = lif_job(current, start, decay, threshold, subtract);
  job.surrogate = static_cast<Surrogate>(surrogate), job.slope = slope, job.detach = detach_reset;
  job.spikes = lif_operand(grad), job.potential = lif_operand(grad_potential);
  job.grad_current = lif_operand(grad_current), job.grad_start = lif_operand(grad_start);
  run_lif(job, lif_backward);
}

}  // namespace

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
