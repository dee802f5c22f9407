// Layer and rms norm over matrices of adjacent elements; an empty tensor stands for one that is not given.
#pragma once

#include "../cpu/normalization.h"
#include "ops.h"

namespace nnk {

inline auto norm_type(Scalar scalar) {
  return scalar == Scalar::f64 ? torch::headeronly::ScalarType::Double : torch::headeronly::ScalarType::Float;
}

inline const void* norm_rows(const Tensor& t, const Tensor& x, int64_t* stride) {
  if (t.numel() == 0) return nullptr;
  check_alike(t, x);
  STD_TORCH_CHECK(t.stride(1) == 1 || t.size(1) == 1, "nnkernels: expected rows of adjacent elements");
  *stride = t.stride(0);
  return t.data_ptr();
}

inline const void* norm_columns(const Tensor& t, const RowNormJob& job) {
  if (t.numel() == 0) return nullptr;
  STD_TORCH_CHECK(t.numel() == job.cols && t.is_contiguous() && t.scalar_type() == norm_type(job.scalar),
                  "nnkernels: expected ", job.cols, " numbers of the computing type");
  return t.data_ptr();
}

// The job's part that both passes share.
inline RowNormJob row_norm_job(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias,
                               const Tensor& statistics, int64_t activation, bool identity, double a, double b) {
  STD_TORCH_CHECK(activation >= 0 && activation < count_activations(), "nnkernels: no activation has index ",
                  activation);
  RowNormJob job{};
  job.identity = identity;
  job.activation = static_cast<int>(activation);
  job.scalar = scalar_of(x);
  job.a = a;
  job.b = b;
  job.rows = x.size(0);
  job.cols = x.size(1);
  const auto kept = job.scalar == Scalar::f32 ? torch::headeronly::ScalarType::Double : norm_type(job.scalar);
  STD_TORCH_CHECK(statistics.dim() == 2 && statistics.size(1) == job.rows && statistics.is_contiguous() &&
                      statistics.scalar_type() == kept,
                  "nnkernels: the statistics do not fit");
  job.centred = statistics.size(0) == 2;
  job.x = norm_rows(x, x, &job.x_stride);
  job.residual = norm_rows(residual, x, &job.residual_stride);
  job.weight = norm_columns(weight, job);
  job.bias = norm_columns(bias, job);
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
  STD_TORCH_CHECK(x.dim() == 2 && x.numel() > 0, "nnkernels: expected a matrix that is not empty");
  const auto kept = scalar_of(x) == Scalar::f32 ? torch::headeronly::ScalarType::Double : norm_type(scalar_of(x));
  Tensor y = torch::stable::new_empty(x, {x.size(0), x.size(1)});
  Tensor statistics = torch::stable::new_empty(x, {centred ? 2 : 1, x.size(0)}, kept);
  RowNormJob job = row_norm_job(x, residual, weight, bias, statistics, activation, identity, a, b);
  job.eps = eps;
  job.out = y.mutable_data_ptr();
  run_row_norm(job, 1);
  return {y, statistics};
}

// The gradients of x and the residual, and rows of partial sums of those of weight and bias; empty what is not wanted.
inline std::tuple<Tensor, Tensor, Tensor, Tensor> norm_backward(const Tensor& grad, const Tensor& x,
                                                                const Tensor& residual, const Tensor& weight,
                                                                const Tensor& bias, const Tensor& statistics,
                                                                int64_t activation, bool identity, double a, double b,
                                                                bool wants_residual, bool wants_parameters) {
  STD_TORCH_CHECK(x.dim() == 2 && x.numel() > 0, "nnkernels: expected a matrix that is not empty");
  RowNormJob job = row_norm_job(x, residual, weight, bias, statistics, activation, identity, a, b);
  const int64_t chunk = norm_chunk(job.rows), chunks = (job.rows + chunk - 1) / chunk;
  const auto matrix = [&](bool wanted) {
    return torch::stable::new_empty(x, {wanted ? job.rows : 0, wanted ? job.cols : 0});
  };
  const auto sums = [&](const Tensor& parameter) {
    const bool wanted = wants_parameters && parameter.numel() != 0;
    return torch::stable::new_empty(x, {wanted ? chunks : 0, wanted ? job.cols : 0}, norm_type(job.scalar));
  };
  const auto data = [](const Tensor& t) { return t.numel() == 0 ? nullptr : t.mutable_data_ptr(); };
  Tensor grad_x = matrix(true), for_residual = matrix(wants_residual && !identity);
  Tensor for_weight = sums(weight), for_bias = sums(bias);
  job.backward = true;
  job.grad = norm_rows(grad, x, &job.grad_stride);
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
