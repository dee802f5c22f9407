// Layer and rms norm over matrices of adjacent elements; an empty tensor stands for one that is not given.
#pragma once

#include "../cpu/normalization.h"
#include "ops.h"

namespace nnk {

inline void check_norm_rows(const Requirements& needs, const Argument& a, const Argument& x) {
  needs.alike(a, x);
  needs.that(a.tensor.stride(1) == 1 || a.tensor.size(1) == 1, a.name, " of shape ", Shape(a.tensor),
             " does not have rows of adjacent elements");
}

// What both passes ask.
inline void check_norm(const Requirements& needs, const Tensor& x, const Tensor& residual, const Tensor& weight,
                       const Tensor& bias, int64_t activation) {
  check_activation(needs, activation);
  needs.matrix({"x", x});
  needs.that(x.numel() > 0, "x has shape ", Shape(x), ", expected a matrix that is not empty");
  needs.floating({"x", x});
  check_norm_rows(needs, {"x", x}, {"x", x});
  if (is_given(residual)) check_norm_rows(needs, {"residual", residual}, {"x", x});
  for (const Argument& a : {Argument{"weight", weight}, Argument{"bias", bias}}) {
    if (!is_given(a.tensor)) continue;
    needs.vector(a, x.size(1), computing_type(x.scalar_type()));
  }
}

// The statistics' type: wider than the computing type for float32.
inline ScalarType statistics_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Float ? ScalarType::Double : computing_type(x.scalar_type());
}

inline const void* norm_rows(const Tensor& t, int64_t* stride) {
  if (t.numel() == 0) return nullptr;
  *stride = t.stride(0);
  return t.data_ptr();
}

inline const void* norm_columns(const Tensor& t) { return t.numel() == 0 ? nullptr : t.data_ptr(); }

// The job's part that both passes share.
inline RowNormJob row_norm_job(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias,
                               const Tensor& statistics, int64_t activation, bool identity, double a, double b) {
  RowNormJob job{};
  job.identity = identity;
  job.activation = static_cast<int>(activation);
  job.scalar = scalar_of(x);
  job.a = a;
  job.b = b;
  job.rows = x.size(0);
  job.cols = x.size(1);
  job.centred = statistics.size(0) == 2;
  job.x = norm_rows(x, &job.x_stride);
  job.residual = norm_rows(residual, &job.residual_stride);
  job.weight = norm_columns(weight);
  job.bias = norm_columns(bias);
  job.statistics = statistics.mutable_data_ptr();
  return job;
}

// As many elements for each thread as for the elementwise loops.
inline void run_row_norm(const RowNormJob& job, int64_t chunk) {
  const int64_t chunks = (job.rows + chunk - 1) / chunk;
  torch::stable::parallel_for(0, chunks, 32768 / (chunk * job.cols) + 1, [&](int64_t begin, int64_t end) {
    row_norm(job, begin * chunk, end * chunk < job.rows ? end * chunk : job.rows);
  });
}

inline std::tuple<Tensor, Tensor> norm_forward(const Tensor& x, const Tensor& residual, const Tensor& weight,
                                               const Tensor& bias, int64_t activation, bool identity, double a,
                                               double b, double eps, bool centred) {
  const Requirements needs("norm_forward");
  check_norm(needs, x, residual, weight, bias, activation);

  Tensor y = allocate(x, {x.size(0), x.size(1)}, x.scalar_type());
  Tensor statistics = allocate(x, {centred ? 2 : 1, x.size(0)}, statistics_type(x));
  RowNormJob job = row_norm_job(x, residual, weight, bias, statistics, activation, identity, a, b);
  job.eps = eps;
  job.out = y.mutable_data_ptr();
  run_row_norm(job, 1);
  return {y, statistics};
}

// The gradients of x and the residual, and rows of partial sums of those of weight and bias, one row being a vector;
// empty what is not wanted.
inline std::tuple<Tensor, Tensor, Tensor, Tensor> norm_backward(const Tensor& grad, const Tensor& x,
                                                                const Tensor& residual, const Tensor& weight,
                                                                const Tensor& bias, const Tensor& statistics,
                                                                int64_t activation, bool identity, double a, double b,
                                                                bool wants_residual, bool wants_parameters) {
  const Requirements needs("norm_backward");
  check_norm(needs, x, residual, weight, bias, activation);
  check_norm_rows(needs, {"grad", grad}, {"x", x});
  needs.matrix({"statistics", statistics});
  needs.shape({"statistics", statistics}, {statistics.size(0) == 2 ? 2 : 1, x.size(0)});
  needs.dtype({"statistics", statistics}, statistics_type(x));
  needs.contiguous({"statistics", statistics});

  RowNormJob job = row_norm_job(x, residual, weight, bias, statistics, activation, identity, a, b);
  const int64_t chunk = norm_chunk(job.rows), chunks = (job.rows + chunk - 1) / chunk;
  const auto matrix = [&](bool wanted) {
    return allocate(x, {wanted ? job.rows : 0, wanted ? job.cols : 0}, x.scalar_type());
  };
  const auto sums = [&](const Tensor& parameter) {
    const bool wanted = wants_parameters && parameter.numel() != 0;
    const auto type = computing_type(x.scalar_type());
    if (wanted && chunks == 1) return allocate(x, {job.cols}, type);
    return allocate(x, {wanted ? chunks : 0, wanted ? job.cols : 0}, type);
  };
  const auto data = [](const Tensor& t) { return t.numel() == 0 ? nullptr : t.mutable_data_ptr(); };
  Tensor grad_x = matrix(true), for_residual = matrix(wants_residual && !identity);
  Tensor for_weight = sums(weight), for_bias = sums(bias);
  job.backward = true;
  job.grad = norm_rows(grad, &job.grad_stride);
  job.out = data(grad_x);
  job.for_residual = data(for_residual);
  job.for_weight = data(for_weight);
  job.for_bias = data(for_bias);
  run_row_norm(job, chunk);
  return {grad_x, for_residual, for_weight, for_bias};
}

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def(
      "norm_forward(Tensor x, Tensor residual, Tensor weight, Tensor bias, int activation, bool identity, float a, "
      "float b, float eps, bool centred) -> (Tensor, Tensor)");
  m.def(
      "norm_backward(Tensor grad, Tensor x, Tensor residual, Tensor weight, Tensor bias, Tensor statistics, "
      "int activation, bool identity, float a, float b, bool wants_residual, bool wants_parameters) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("norm_forward", TORCH_BOX(&norm_forward));
  m.impl("norm_backward", TORCH_BOX(&norm_backward));
}

}  // namespace nnk
