// bias, activation, dropout and residual over contiguous matrices; an empty tensor stands for one that is not given.
#pragma once

#include "../cpu/fused.h"
#include "ops.h"
#include "random.h"

namespace nnk {

inline void* data_or_null(const Tensor& t) { return t.numel() == 0 ? nullptr : t.mutable_data_ptr(); }

// What both passes ask, `like` being x or its gradient.
inline void check_fused(const Requirements& needs, const Argument& like, const Tensor& bias, const Tensor& seed,
                        int64_t activation, int64_t along, int64_t channels, int64_t threshold) {
  check_activation(needs, activation);
  needs.matrix(like);
  needs.floating(like);
  needs.contiguous(like);
  needs.in_range("along", along, 0, 2);
  const int64_t rows = like.tensor.size(0), cols = like.tensor.size(1);
  if (along == static_cast<int64_t>(Along::rows)) {
    needs.that(channels > 0 && rows % channels == 0, "channels is ", channels, ", expected a divisor of the ", rows,
               " rows");
  } else if (along == static_cast<int64_t>(Along::cols)) {
    needs.that(channels == cols, "channels is ", channels, ", expected the ", cols, " columns");
  }
  if (is_given(bias)) {
    needs.that(along != static_cast<int64_t>(Along::nothing), "bias is given for no channels");
    needs.vector({"bias", bias}, channels, computing_type(like.tensor.scalar_type()));
  }
  if (is_given(seed)) check_seed(needs, seed);
  check_threshold(needs, threshold);
}

// The job's part that both passes share.
inline FusedJob fused_job(const Tensor& like, const Tensor& bias, const Tensor& seed, int64_t activation, double a,
                          double b, int64_t along, int64_t channels, int64_t threshold, double scale) {
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
  if (job.drops) job.seed = seed_of(seed);
  job.threshold = static_cast<uint32_t>(threshold);
  job.scale = scale;
  job.bias = data_or_null(bias);
  return job;
}

inline void run_fused(const FusedJob& job) {
  if (job.rows == 0 || job.cols == 0) return;
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
  const Requirements needs("fused_forward");
  check_fused(needs, {"x", x}, bias, seed, activation, along, channels, threshold);
  if (is_given(residual)) {
    needs.alike({"residual", residual}, {"x", x});
    needs.contiguous({"residual", residual});
  }

  Tensor y = allocate_like(x);
  FusedJob job = fused_job(x, bias, seed, activation, a, b, along, channels, threshold, scale);
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
  const Requirements needs("fused_backward");
  check_fused(needs, {"grad", grad}, bias, seed, activation, along, channels, threshold);
  if (is_given(x)) {
    needs.alike({"x", x}, {"grad", grad});
    needs.contiguous({"x", x});
  }
  needs.that(!sums || along != static_cast<int64_t>(Along::nothing), "sums are wanted of no channels");

  Tensor grad_x = allocate_like(grad);
  FusedJob job = fused_job(grad, bias, seed, activation, a, b, along, channels, threshold, scale);
  job.backward = true;
  const bool cols = job.along == Along::cols;
  const int64_t first = !sums ? 0 : cols ? (job.rows + kFusedChunk - 1) / kFusedChunk : job.rows / channels;
  Tensor partial = allocate(grad, {first, sums ? (cols ? job.cols : channels) : 0}, computing_type(grad.scalar_type()));
  if (grad.numel() == 0) torch::stable::zero_(partial);
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
