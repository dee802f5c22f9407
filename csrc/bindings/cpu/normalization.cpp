// Layer and rms norm over matrices of adjacent elements.
#include "../../cpu/normalization.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../launching.h"

namespace nnk {
namespace {

// The statistics' type: wider than the computing type for float32.
ScalarType statistics_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Float ? ScalarType::Double : computing_type(x);
}

// The type in which a sum is kept, as torch promotes.
ScalarType promoted(ScalarType a, ScalarType b) {
  return a == b ? a : a == ScalarType::Double || b == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Rows of adjacent elements, as many and as long as those of x, of any floating type.
void check_operand(const Requirements& needs, const Argument& a, const Argument& x) {
  if (!a.tensor) return;
  needs.floating(a);
  needs.that(a.tensor->sizes().equals(x.tensor->sizes()), a.name, " has shape ", Shape(*a.tensor), ", expected ",
             Shape(*x.tensor), " as ", x.name);
  needs.allocated(a);
  needs.that(a.tensor->stride(1) == 1 || a.tensor->size(1) == 1, a.name, " of shape ", Shape(*a.tensor),
             " does not have rows of adjacent elements");
}

void check_norm_rows(const Requirements& needs, const Argument& a, const Argument& x) {
  if (a.tensor) needs.alike(a, x);
  check_operand(needs, a, x);
}

void check_norm_input(const Requirements& needs, const Argument& x) {
  needs.matrix(x);
  needs.that(x.tensor->numel() > 0, "x has shape ", Shape(*x.tensor), ", expected a matrix that is not empty");
  check_operand(needs, x, x);
}

// What both passes are told.
struct NormCall {
  const Tensor& x;  // what is normalised
  const OptionalTensor &residual, &addend, &weight, &bias;
  int64_t activation;
  bool linear;
  int64_t gates;
  double a, b, offset;

  void check(const Requirements& needs) const {
    needs.activation(activation);
    check_norm_input(needs, {"x", x});
    check_norm_rows(needs, {"residual", residual}, {"x", x});
    needs.in_range("gates", gates, 0, 2);
    needs.that(!gates || residual, "residual is missing, which is the gate");
    needs.vector({"weight", weight}, x.size(1), computing_type(x));
    needs.vector({"bias", bias}, x.size(1), computing_type(x));
  }

  RowNormJob job(const Tensor& statistics) const {
    RowNormJob job{};
    job.linear = linear;
    job.gates = static_cast<GateAt>(gates);
    job.activation = static_cast<int>(activation);
    job.scalar = scalar_of(x);
    job.a = a;
    job.b = b;
    job.offset = offset;
    job.rows = x.size(0);
    job.cols = x.size(1);
    job.centred = statistics.size(0) == 2;
    job.x = x.data_ptr();
    job.x_stride = x.stride(0);
    job.residual = data_of(residual);
    job.residual_stride = residual ? residual->stride(0) : 0;
    job.addend = numbers_of(addend);
    job.addend_stride = addend ? addend->stride(0) : 0;
    job.weight = data_of(weight);
    job.bias = data_of(bias);
    job.statistics = statistics.mutable_data_ptr();
    return job;
  }
};

void run_row_norm(const RowNormJob& job, int64_t chunk) {
  in_tiles(job.rows, chunk, job.cols, [&](int64_t begin, int64_t end) { row_norm(job, begin, end); });
}

// The value, the statistics, and the sum with the addend, empty if there is none.
std::tuple<Tensor, Tensor, Tensor> norm_forward(const Tensor& x, const OptionalTensor& residual,
                                                const OptionalTensor& addend, const OptionalTensor& weight,
                                                const OptionalTensor& bias, int64_t activation, bool linear,
                                                int64_t gates, double a, double b, double offset, double eps,
                                                bool centred) {
  const Requirements needs("norm_forward");
  check_norm_input(needs, {"x", x});
  check_operand(needs, {"addend", addend}, {"x", x});
  const auto matrix = [&](bool wanted, ScalarType type) {
    return allocate(x, {wanted ? x.size(0) : 0, wanted ? x.size(1) : 0}, type);
  };
  Tensor total =
      matrix(addend.has_value(), addend ? promoted(x.scalar_type(), addend->scalar_type()) : x.scalar_type());
  const Tensor& of = addend ? total : x;
  const NormCall call{of, residual, addend, weight, bias, activation, linear, gates, a, b, offset};
  call.check(needs);

  Tensor y = matrix(true, of.scalar_type());
  Tensor statistics = allocate(x, {centred ? 2 : 1, x.size(0)}, statistics_type(of));
  RowNormJob job = call.job(statistics);
  job.first = numbers_of(x);
  job.first_stride = x.stride(0);
  job.eps = eps;
  job.out = y.mutable_data_ptr();
  run_row_norm(job, 1);
  return {y, statistics, total};
}

// The gradients of x, to which that of the sum is added, and the residual, and rows of partial sums of those of weight
// and bias, one row being a vector; empty what is not wanted. That of x goes to `narrowed` as well, rounded to its
// type.
std::tuple<Tensor, Tensor, Tensor, Tensor> norm_backward(const Tensor& grad, const Tensor& x,
                                                         const OptionalTensor& residual, const OptionalTensor& grad_sum,
                                                         const OptionalTensor& weight, const OptionalTensor& bias,
                                                         const Tensor& statistics, const OptionalTensor& narrowed,
                                                         int64_t activation, bool linear, int64_t gates, double a,
                                                         double b, double offset, bool wants_residual,
                                                         bool wants_parameters) {
  const Requirements needs("norm_backward");
  const NormCall call{x, residual, grad_sum, weight, bias, activation, linear, gates, a, b, offset};
  call.check(needs);
  check_norm_rows(needs, {"grad_sum", grad_sum}, {"x", x});
  check_norm_rows(needs, {"grad", grad}, {"x", x});
  needs.matrix({"statistics", statistics});
  needs.numbers({"statistics", statistics}, {statistics.size(0) == 2 ? 2 : 1, x.size(0)}, statistics_type(x));
  check_operand(needs, {"narrowed", narrowed}, {"x", x});
  if (narrowed) {
    needs.contiguous({"narrowed", narrowed});
    needs.apart({{"narrowed", narrowed}}, {{"x", x}, {"grad", grad}, {"residual", residual}, {"grad_sum", grad_sum}});
  }

  RowNormJob job = call.job(statistics);
  const int64_t chunk = norm_chunk(job.rows), chunks = (job.rows + chunk - 1) / chunk;
  const auto matrix = [&](bool wanted, int64_t rows, ScalarType type) {
    return allocate(x, {wanted ? rows : 0, wanted ? job.cols : 0}, type);
  };
  const auto sums = [&](const OptionalTensor& parameter) {
    const bool wanted = wants_parameters && parameter;
    return wanted && chunks == 1 ? allocate_like(*parameter) : matrix(wanted, chunks, computing_type(x));
  };
  Tensor grad_x = matrix(true, job.rows, x.scalar_type());
  Tensor for_residual = matrix(wants_residual && !linear, job.rows, x.scalar_type());
  Tensor for_weight = sums(weight), for_bias = sums(bias);
  job.backward = true;
  job.grad = grad.data_ptr();
  job.grad_stride = grad.stride(0);
  job.out = data_of(grad_x);
  job.narrowed = numbers_of(narrowed);
  job.for_residual = data_of(for_residual);
  job.for_weight = data_of(for_weight);
  job.for_bias = data_of(for_bias);
  run_row_norm(job, chunk);
  return {grad_x, for_residual, for_weight, for_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def(
      "norm_forward(Tensor x, Tensor? residual, Tensor? addend, Tensor? weight, Tensor? bias, int activation, "
      "bool linear, int gates, float a, float b, float offset, float eps, bool centred) -> (Tensor, Tensor, Tensor)");
  m.def(
      "norm_backward(Tensor grad, Tensor x, Tensor? residual, Tensor? grad_sum, Tensor? weight, Tensor? bias, "
      "Tensor statistics, Tensor(a!)? narrowed, int activation, bool linear, int gates, float a, float b, "
      "float offset, bool wants_residual, bool wants_parameters) -> (Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("norm_forward", TORCH_BOX(&norm_forward));
  m.impl("norm_backward", TORCH_BOX(&norm_backward));
}

}  // namespace nnk
