#include "linear.cuh"

#define NNK_STORED StoredBFloat16

namespace nnk::device {

cudaError_t linear_bfloat16(const LinearJob& job, cudaStream_t stream) {
  NNK_PRODUCT_TABLE(LinearJob, NNK_LINEAR_ROW);
  return table[job.activation](job, stream);
}

cudaError_t slope_bfloat16(const SlopeJob& job, cudaStream_t stream) {
  NNK_PRODUCT_TABLE(SlopeJob, NNK_SLOPE_ROW);
  return table[job.activation](job, stream);
}

bool has_slope(int activation) {
#define NNK_HAS_SLOPE(name) !kLongSlope<name<Fast>>,
  constexpr bool has[] = {NNK_ACTIVATIONS(NNK_HAS_SLOPE)};
  return has[activation];
}

}  // namespace nnk::device

extern "C" int nnk_cuda_linear(const nnk::LinearJob* job, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  const bool half = job->scalar == nnk::Scalar::f16;
  return half ? nnk::device::linear_float16(*job, queue) : nnk::device::linear_bfloat16(*job, queue);
}

extern "C" int nnk_cuda_slope(const nnk::SlopeJob* job, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  const bool half = job->scalar == nnk::Scalar::f16;
  return half ? nnk::device::slope_float16(*job, queue) : nnk::device::slope_bfloat16(*job, queue);
}

extern "C" int nnk_cuda_has_slope(int activation) { return nnk::device::has_slope(activation); }
