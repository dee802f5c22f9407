// Normalisation + activation + residual. Tensors are dense, of any strides; only their memory counts, as the frame
// (batch, rows, channels, inner, group) sees it. Weight and bias are of the computing type.
#include "../../cpu/batch_normalization.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../launching.h"

namespace nnk {
namespace {

using Frame = std::vector<int64_t>;

int64_t sets_of(const Frame& frame) { return frame[0] * frame[2] / frame[4]; }

// x, of at least two dimensions of which the second is the channels', and how its memory is seen.
void check_frame(const Requirements& needs, const Tensor& x, const Frame& frame) {
  needs.floating({"x", x});
  needs.dense({"x", x});
  needs.that(x.dim() >= 2, "x has shape ", Shape(x), ", expected two dimensions or more");
  needs.that(frame.size() == 5, "frame has ", frame.size(), " numbers, expected 5");
  const int64_t batch = frame[0], rows = frame[1], channels = frame[2], inner = frame[3], group = frame[4];
  needs.that(batch > 0 && (batch == 1 || batch == x.size(0)) && rows >= 0 && channels > 0 && channels == x.size(1) &&
                 inner > 0 && multiply_to(x.numel(), {batch, rows, channels, inner}) && group > 0 &&
                 channels % group == 0,
             "x of shape ", Shape(x), " is not ", batch, " x ", rows, " x ", channels, " x ", inner, " in groups of ",
             group, " channels");
}

// What belongs to the channels and sets of x.
void check_statistics(const Requirements& needs, const Tensor& x, const OptionalTensor& weight,
                      const OptionalTensor& bias, const Tensor& statistics, const Frame& frame) {
  const ScalarType type = computing_type(x);
  needs.vector({"weight", weight}, x.size(1), type);
  needs.vector({"bias", bias}, x.size(1), type);
  needs.numbers({"statistics", statistics}, {kNormRows, sets_of(frame)}, type);
}

// A number of the computing type for each element of x.
void check_dz(const Requirements& needs, const Argument& dz, const Tensor& x) {
  needs.elements(dz, x.numel());
  needs.dtype(dz, computing_type(x));
  needs.dense(dz);
}

// Whether dz may be kept in grad_x itself.
bool is_same(const Tensor& dz, const Tensor& grad_x) { return dz.const_data_ptr() == grad_x.const_data_ptr(); }

NormJob norm_job(const Tensor& x, const Frame& frame, int64_t activation = 0, double a = 0, double b = 0) {
  NormJob job{};
  job.frame = {frame[0], frame[1], frame[2], frame[3], frame[4]};
  job.activation = static_cast<int>(activation);
  job.scalar = scalar_of(x);
  job.a = a;
  job.b = b;
  job.x = x.mutable_data_ptr();
  return job;
}

template <class Kernel>
void run_norm(const NormJob& job, Kernel kernel) {
  const NormFrame& f = job.frame;
  if (f.lanes() * f.rows * f.inner == 0) return;
  const NormTasks tasks(f);
  in_parallel(f.batch * tasks.chunks * tasks.blocks, tasks.rows_each * tasks.channels_each * f.inner,
              [&](int64_t begin, int64_t end) { kernel(job, begin, end); });
}

// Statistics [4, sets] of x, the last row being sums of squares about the mean if `raw`; moves the running ones.
Tensor norm_statistics(const Tensor& x, OptionalTensor mean, OptionalTensor var, double momentum, double eps, bool raw,
                       Frame frame) {
  const Requirements needs("norm_statistics");
  check_frame(needs, x, frame);
  needs.that(mean.has_value() == var.has_value(), "mean and var are given together or not at all");
  for (const Argument& a : {Argument{"mean", mean}, Argument{"var", var}}) {
    if (!a.tensor) continue;
    const ScalarType type = a.tensor->scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    needs.vector(a, sets_of(frame), type);
    needs.apart(a, {"x", x});
  }
  needs.apart({"mean", mean}, {"var", var});

  NormJob job = norm_job(x, frame);
  Tensor statistics = allocate(x, {kNormRows, job.frame.sets()}, computing_type(x));
  const auto partials = norm_partials(&job);
  run_norm(job, norm_moments);
  norm_merge(job, numbers_of(statistics), numbers_of(mean), numbers_of(var), momentum, eps, raw);
  return statistics;
}

Tensor norm_apply_op(const Tensor& x, const OptionalTensor& residual, const OptionalTensor& weight,
                     const OptionalTensor& bias, const Tensor& statistics, int64_t activation, double a, double b,
                     Frame frame) {
  const Requirements needs("norm_apply");
  needs.activation(activation);
  check_frame(needs, x, frame);
  needs.laid_out_as({"residual", residual}, {"x", x});
  check_statistics(needs, x, weight, bias, statistics, frame);

  Tensor y = allocate_like(x);
  if (x.numel() == 0) return y;
  NormJob job = norm_job(x, frame, activation, a, b);
  const auto lanes = norm_lanes(&job, numbers_of(statistics), numbers_of(weight), numbers_of(bias), {});
  job.residual = data_of(residual);
  job.y = y.mutable_data_ptr();
  run_norm(job, norm_apply);
  return y;
}

// The sums of dz and of dz times the normalised value for each lane, [2, lanes], and for each set, [2, sets]. Keeps dz;
// without memory for it writes grad_x, if that is given, for fixed statistics.
std::tuple<Tensor, Tensor> norm_sums_op(const Tensor& grad, const Tensor& x, const OptionalTensor& residual,
                                        const OptionalTensor& weight, const OptionalTensor& bias,
                                        const Tensor& statistics, OptionalTensor dz, OptionalTensor grad_x,
                                        OptionalTensor grad_residual, int64_t activation, double a, double b,
                                        Frame frame) {
  const Requirements needs("norm_sums");
  needs.activation(activation);
  check_frame(needs, x, frame);
  const Argument read[] = {{"grad", grad}, {"x", x}, {"residual", residual}};
  const Argument written[] = {{"grad_x", grad_x}, {"grad_residual", grad_residual}, {"dz", dz}};
  for (const Argument& one : {read[0], read[2], written[0], written[1]}) needs.laid_out_as(one, read[1]);
  check_dz(needs, written[2], x);
  check_statistics(needs, x, weight, bias, statistics, frame);
  needs.apart({written[0], written[1], written[2]}, {read[0], read[1], read[2]});
  needs.apart({written[1]}, {written[0], written[2]});
  if (dz && grad_x && !is_same(*dz, *grad_x)) needs.apart(written[2], written[0]);

  NormJob job = norm_job(x, frame, activation, a, b);
  const ScalarType type = computing_type(x);
  Tensor sums = allocate(x, {2, job.frame.lanes()}, type), totals = allocate(x, {2, job.frame.sets()}, type);
  const Numbers kept = numbers_of(statistics), factors = numbers_of(weight);
  const auto lanes = norm_lanes(&job, kept, factors, numbers_of(bias), {});
  const auto partials = norm_partials(&job);
  job.grad = grad.mutable_data_ptr();
  job.residual = data_of(residual);
  job.grad_residual = data_of(grad_residual);
  job.grad_x = data_of(grad_x);
  job.dz = data_of(dz);
  run_norm(job, norm_sums);
  norm_total(job, kept, factors, numbers_of(sums), numbers_of(totals));
  return {sums, totals};
}

// The gradient of x from the dz that norm_sums kept, or from grad.
void norm_spread_op(const OptionalTensor& dz, const OptionalTensor& grad, const Tensor& x,
                    const OptionalTensor& residual, const OptionalTensor& weight, const OptionalTensor& bias,
                    const Tensor& statistics, const Tensor& totals, Tensor grad_x, int64_t activation, double a,
                    double b, Frame frame) {
  const Requirements needs("norm_spread");
  needs.activation(activation);
  check_frame(needs, x, frame);
  needs.that(dz.has_value() != grad.has_value(), "either dz or grad is given");
  check_dz(needs, {"dz", dz}, x);
  const Argument read[] = {{"grad", grad}, {"x", x}, {"residual", residual}};
  for (const Argument& one : {read[0], read[2], Argument{"grad_x", grad_x}}) needs.laid_out_as(one, read[1]);
  check_statistics(needs, x, weight, bias, statistics, frame);
  needs.numbers({"totals", totals}, {2, sets_of(frame)}, computing_type(x));
  needs.apart({{"grad_x", grad_x}}, {read[0], read[1], read[2]});
  if (dz && !is_same(*dz, grad_x)) needs.apart({"grad_x", grad_x}, {"dz", dz});
  if (x.numel() == 0) return;

  NormJob job = norm_job(x, frame, activation, a, b);
  const auto lanes = norm_lanes(&job, numbers_of(statistics), numbers_of(weight), numbers_of(bias), numbers_of(totals));
  job.grad = data_of(grad);
  job.residual = data_of(residual);
  job.dz = data_of(dz);
  job.grad_x = grad_x.mutable_data_ptr();
  run_norm(job, norm_spread);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def(
      "norm_statistics(Tensor x, Tensor(a!)? mean, Tensor(b!)? var, float momentum, float eps, bool raw, int[] frame) "
      "-> Tensor");
  m.def(
      "norm_apply(Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, Tensor statistics, int activation, "
      "float a, float b, int[] frame) -> Tensor");
  m.def(
      "norm_sums(Tensor grad, Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, Tensor statistics, "
      "Tensor(a!)? dz, Tensor(b!)? grad_x, Tensor(c!)? grad_residual, int activation, float a, float b, int[] frame) "
      "-> (Tensor, Tensor)");
  m.def(
      "norm_spread(Tensor? dz, Tensor? grad, Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, "
      "Tensor statistics, Tensor totals, Tensor(a!) grad_x, int activation, float a, float b, int[] frame) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("norm_statistics", TORCH_BOX(&norm_statistics));
  m.impl("norm_apply", TORCH_BOX(&norm_apply_op));
  m.impl("norm_sums", TORCH_BOX(&norm_sums_op));
  m.impl("norm_spread", TORCH_BOX(&norm_spread_op));
}

}  // namespace nnk
