#include "linear.cuh"

#define NNK_LINEAR_STORED StoredHalf

namespace nnk::device {

cudaError_t linear_float16(const LinearJob& job, cudaStream_t stream) {
  NNK_LINEAR_TABLE;
  return table[job.activation](job, stream);
}

}  // namespace nnk::device
