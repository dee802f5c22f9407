// bias, activation, dropout and residual over contiguous matrices; an empty tensor stands for one that is not given.
#pragma once

#include "../cpu/fused.h"
#include "ops.h"

namespace nnk {

inline void* data_or_null(const Tensor& t) { return t.numel() == 0 ? nullptr : t.mutable_data_ptr(); }

// The job's part that both passes share.
inline FusedJob fused_job(const Tensor& like, const Tensor& bias, const Tensor& seed, int64_t activation, double a,
                          double b, int64_t along, int64_t channels, int64_t threshold, double scale) {
  STD_TORCH_CHECK(activation >= 0 && activation < count_activations(), "nnkernels: no activation has index ",
                  activation);
  STD_TORCH_CHECK(like.dim() == 2 && like.is_contiguous(), "nnkernels: expected a contiguous matrix");
  STD_TORCH_CHECK(along >= 0 && along <= 2, "nnkernels: channels along ", along);
  const int64_t least = along == 1 ? like.size(1) : along == 2 ? channels : 0;
  STD_TORCH_CHECK(bias.numel() == 0 || (bias.numel() == least && bias.is_contiguous()),
                  "nnkernels: expected a bias of ", least, " numbers, got ", bias.numel());
  const auto wide = scalar_of(like) == Scalar::f64 ? Scalar::f64 : Scalar::f32;
  STD_TORCH_CHECK(bias.numel() == 0 || scalar_of(bias) == wide, "nnkernels: expected a bias of the computing type");
  FusedJob job{};
  job.activation = static_cast<int>(activation);
  job.scalar = scalar_of(like);
  job.a = a;
  job.b = b;
  job.rows = like.size(0);
  job.cols = like.size(1);
  job.along = static_cast<Along>(along);
  job.channels = channels;
  job.drops = seed.numel() != 0;
  if (job.drops) job.seed = static_cast<uint64_t>(*static_cast<const int64_t*>(seed.const_data_ptr()));
  job.threshold = static_cast<uint32_t>(threshold);
  job.scale = scale;
  job.bias = data_or_null(bias);
  return job;
}

inline void run_fused(const FusedJob& job) {
  const int64_t chunks = (job.rows + kFusedChunk - 1) / kFusedChunk;
  const int64_t grain = 32768 / (kFusedChunk * job.cols) + 1;
  torch::stable::parallel_for(0, chunks, grain, [&](int64_t begin, int64_t end) {
    const int64_t stop = end * kFusedChunk < job.rows ? end * kFusedChunk : job.rows;
    fused(job, begin * kFusedChunk, stop);
  });
}

inline Tensor fused_forward(const Tensor& x, const Tensor& bias, const Tensor& residual, const Tensor& seed,
                            int64_t activation, double a, double b, int64_t along, int64_t channels, int64_t threshold,
                            double scale) {
  Tensor y = torch::stable::empty_like(x);
  FusedJob job = fused_job(x, bias, seed, activation, a, b, along, channels, threshold, scale);
  if (residual.numel() != 0) {
    check_alike(residual, x);
    STD_TORCH_CHECK(residual.is_contiguous(), "nnkernels: expected a contiguous residual");
  }
  job.x = x.mutable_data_ptr();
  job.residual = data_or_null(residual);
  job.out = y.mutable_data_ptr();
  run_fused(job);
  return y;
}

inline std::tuple<Tensor, Tensor> fused_backward(const Tensor& grad, const Tensor& x, const Tensor& bias,
                                                 const Tensor& seed, int64_t activation, double a, double b,
                                                 int64_t along, int64_t channels, int64_t threshold, double scale,
                                                 bool sums) {
  Tensor grad_x = torch::stable::empty_like(grad);
  FusedJob job = fused_job(grad, bias, seed, activation, a, b, along, channels, threshold, scale);
  job.backward = true;
  if (x.numel() != 0) {
    check_alike(x, grad);
    STD_TORCH_CHECK(x.is_contiguous(), "nnkernels: expected a contiguous matrix");
  }
  const bool cols = job.along == Along::cols;
  const int64_t first = !sums ? 0 : cols ? (job.rows + kFusedChunk - 1) / kFusedChunk : job.rows / channels;
  const auto wide =
      job.scalar == Scalar::f64 ? torch::headeronly::ScalarType::Double : torch::headeronly::ScalarType::Float;
  Tensor partial = torch::stable::new_empty(grad, {first, sums ? (cols ? job.cols : channels) : 0}, wide);
  job.x = data_or_null(x);
  job.grad = grad.mutable_data_ptr();
  job.out = grad_x.mutable_data_ptr();
  job.sums = data_or_null(partial);
  run_fused(job);
  return {grad_x, partial};
}

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def(
      "fused_forward(Tensor x, Tensor bias, Tensor residual, Tensor seed, int activation, float a, float b, int along, "
      "int channels, int threshold, float scale) -> Tensor");
  m.def(
      "fused_backward(Tensor grad, Tensor x, Tensor bias, Tensor seed, int activation, float a, float b, int along, "
      "int channels, int threshold, float scale, bool sums) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("fused_forward", TORCH_BOX(&fused_forward));
  m.impl("fused_backward", TORCH_BOX(&fused_backward));
}

}  // namespace nnk
