#include "linear.cuh"

namespace nnk::device {

template cudaError_t run<StoredBFloat16>(const LinearJob&, cudaStream_t);
template cudaError_t run<StoredBFloat16>(const SlopeJob&, cudaStream_t);

}  // namespace nnk::device
