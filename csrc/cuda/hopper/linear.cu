// The products' kernels, as the bindings call them.
#include "linear.cuh"

namespace nnk::device {
namespace {

template <class Job>
cudaError_t of_any_type(const Job& job, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  return job.scalar == Scalar::f16 ? run<StoredHalf>(job, queue) : run<StoredBFloat16>(job, queue);
}

bool has_slope(int activation) {
#define NNK_HAS_SLOPE(name) !kLongSlope<name<Fast>>,
  constexpr bool has[] = {NNK_ACTIVATIONS(NNK_HAS_SLOPE)};
#undef NNK_HAS_SLOPE
  return has[activation];
}

}  // namespace
}  // namespace nnk::device

extern "C" {
int nnk_cuda_linear(const nnk::LinearJob* job, void* stream) { return nnk::device::of_any_type(*job, stream); }
int nnk_cuda_slope(const nnk::SlopeJob* job, void* stream) { return nnk::device::of_any_type(*job, stream); }
int nnk_cuda_has_slope(int activation) { return nnk::device::has_slope(activation); }
}
