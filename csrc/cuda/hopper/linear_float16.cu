#include "linear.cuh"

namespace nnk::device {

template cudaError_t run<StoredHalf>(const LinearJob&, cudaStream_t);
template cudaError_t run<StoredHalf>(const SlopeJob&, cudaStream_t);

}  // namespace nnk::device
