// bias, activation, dropout and residual over contiguous matrices.
#include "../../cpu/fused.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../drawing.h"
#include "../launching.h"

namespace nnk {
namespace {

// What both passes are told.
struct FusedCall {
  const OptionalTensor &bias, &seed;
  int64_t activation;
  double a, b;
  int64_t along, channels, threshold;
  double scale;

  bool is_along(Along one) const { return along == static_cast<int64_t>(one); }

  // `like` is x or its gradient.
  void check(const Requirements& needs, const Argument& like) const {
    needs.activation(activation);
    needs.matrix(like);
    needs.floating(like);
    needs.contiguous(like);
    needs.in_range("along", along, 0, 2);
    const int64_t rows = like.tensor->size(0), cols = like.tensor->size(1);
    needs.that(!is_along(Along::rows) || (channels > 0 && rows % channels == 0), "channels is ", channels,
               ", expected a divisor of the ", rows, " rows");
    needs.that(!is_along(Along::cols) || channels == cols, "channels is ", channels, ", expected the ", cols,
               " columns");
    needs.that(!bias || !is_along(Along::nothing), "bias is given for no channels");
    needs.vector({"bias", bias}, channels, computing_type(*like.tensor));
    check_seed(needs, {"seed", seed});
    check_threshold(needs, threshold);
  }

  FusedJob job(const Tensor& like) const {
    FusedJob job{};
    job.activation = static_cast<int>(activation);
    job.scalar = scalar_of(like);
    job.a = a;
    job.b = b;
    job.rows = like.size(0);
    job.cols = like.size(1);
    job.along = static_cast<Along>(along);
    job.channels = channels;
    job.drops = seed.has_value();
    if (seed) job.seed = seed_of(*seed);
    job.threshold = static_cast<uint32_t>(threshold);
    job.scale = scale;
    job.bias = data_of(bias);
    return job;
  }
};

void run_fused(const FusedJob& job) {
  if (job.rows == 0 || job.cols == 0) return;
  in_tiles(job.rows, kFusedChunk, job.cols, [&](int64_t begin, int64_t end) { fused(job, begin, end); });
}

Tensor fused_forward(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& residual,
                     const OptionalTensor& seed, int64_t activation, double a, double b, int64_t along,
                     int64_t channels, int64_t threshold, double scale) {
  const Requirements needs("fused_forward");
  const FusedCall call{bias, seed, activation, a, b, along, channels, threshold, scale};
  call.check(needs, {"x", x});
  needs.alike({"residual", residual}, {"x", x});
  needs.contiguous({"residual", residual});

  Tensor y = allocate_like(x);
  FusedJob job = call.job(x);
  job.x = x.mutable_data_ptr();
  job.residual = data_of(residual);
  job.out = y.mutable_data_ptr();
  run_fused(job);
  return y;
}

// The gradient of x, and partial sums of the bias's if `sums`.
std::tuple<Tensor, Tensor> fused_backward(const Tensor& grad, const OptionalTensor& x, const OptionalTensor& bias,
                                          const OptionalTensor& seed, int64_t activation, double a, double b,
                                          int64_t along, int64_t channels, int64_t threshold, double scale, bool sums) {
  const Requirements needs("fused_backward");
  const FusedCall call{bias, seed, activation, a, b, along, channels, threshold, scale};
  call.check(needs, {"grad", grad});
  needs.alike({"x", x}, {"grad", grad});
  needs.contiguous({"x", x});
  needs.that(!sums || !call.is_along(Along::nothing), "sums are wanted of no channels");

  Tensor grad_x = allocate_like(grad);
  FusedJob job = call.job(grad);
  job.backward = true;
  const int64_t rows = sums ? job.sum_rows() : 0, cols = sums ? channels : 0;
  Tensor partial = allocate(grad, {rows, cols}, computing_type(grad));
  if (grad.numel() == 0) torch::stable::zero_(partial);
  job.x = data_of(x);
  job.grad = grad.mutable_data_ptr();
  job.out = grad_x.mutable_data_ptr();
  job.sums = data_of(partial);
  run_fused(job);
  return {grad_x, partial};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def(
      "fused_forward(Tensor x, Tensor? bias, Tensor? residual, Tensor? seed, int activation, float a, float b, "
      "int along, int channels, int threshold, float scale) -> Tensor");
  m.def(
      "fused_backward(Tensor grad, Tensor? x, Tensor? bias, Tensor? seed, int activation, float a, float b, int along, "
      "int channels, int threshold, float scale, bool sums) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("fused_forward", TORCH_BOX(&fused_forward));
  m.impl("fused_backward", TORCH_BOX(&fused_backward));
}

}  // namespace nnk
