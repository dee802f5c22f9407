#include "launch.cuh"

namespace nnk::device {
namespace {

template <class Activation>
struct Op {
  using T = typename Activation::T;
  static constexpr int kInputs = 2, kOutputs = 1, kUnroll = 2;

  Activation f;
  Op(double a, double b) : f(a, b) {}

  __device__ void operator()(T (&v)[3][2], int e) const { v[2][e] = times_slope<Activation>(v[0][e], f.d1(v[1][e])); }
};

NNK_TABLE;

}  // namespace

cudaError_t backward(const Job& job, cudaStream_t stream) {
  return table[job.activation][static_cast<int>(job.scalar)](job, stream);
}

}  // namespace nnk::device
