#include "linear.cuh"

#define NNK_STORED StoredHalf

namespace nnk::device {

cudaError_t linear_float16(const LinearJob& job, cudaStream_t stream) {
  NNK_PRODUCT_TABLE(LinearJob, NNK_LINEAR_ROW);
  return table[job.activation](job, stream);
}

cudaError_t slope_float16(const SlopeJob& job, cudaStream_t stream) {
  NNK_PRODUCT_TABLE(SlopeJob, NNK_SLOPE_ROW);
  return table[job.activation](job, stream);
}

}  // namespace nnk::device
