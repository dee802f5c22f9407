#include "linear.cuh"

#define NNK_LINEAR_STORED StoredBFloat16

namespace nnk::device {

cudaError_t linear_bfloat16(const LinearJob& job, cudaStream_t stream) {
  NNK_LINEAR_TABLE;
  return table[job.activation](job, stream);
}

}  // namespace nnk::device

extern "C" int nnk_cuda_linear(const nnk::LinearJob* job, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  switch (job->scalar) {
    case nnk::Scalar::bf16: return nnk::device::linear_bfloat16(*job, queue);
    case nnk::Scalar::f16: return nnk::device::linear_float16(*job, queue);
    default: return cudaErrorInvalidValue;
  }
}
