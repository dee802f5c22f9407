#include "launch.cuh"

namespace nnk::device {
namespace {

template <class Activation>
struct Op {
  using T = typename Activation::T;
  static constexpr int kInputs = 1, kOutputs = 1, kUnroll = 2;

  Activation f;
  Op(double a, double b) : f(a, b) {}

  __device__ void operator()(T (&v)[2][2], int e) const { v[1][e] = f.value(v[0][e]); }
};

NNK_TABLE;

}  // namespace

cudaError_t forward(const Job& job, cudaStream_t stream) {
  return table[job.activation][static_cast<int>(job.scalar)](job, stream);
}

}  // namespace nnk::device

extern "C" int nnk_cuda_run(const nnk::Job* job, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  switch (job->pass) {
    case nnk::Pass::forward: return nnk::device::forward(*job, queue);
    case nnk::Pass::backward: return nnk::device::backward(*job, queue);
    case nnk::Pass::double_backward: break;
  }
  return cudaErrorInvalidValue;
}
