#include "launch.cuh"

namespace nnk::device {
namespace {

template <class Activation>
struct Op {
  using T = typename Activation::T;
  static constexpr int kInputs = 3, kOutputs = 2, kUnroll = 1;

  Activation f;
  Op(double a, double b) : f(a, b) {}

  __device__ void operator()(T (&v)[5][2], int e) const {
    v[3][e] = times_slope<Activation>(v[0][e], f.d1(v[2][e]));
    v[4][e] = times_slope<Activation>(v[0][e] * v[1][e], f.d2(v[2][e]));
  }
};

#define NNK_POLICY Precise
NNK_TABLE;

}  // namespace

cudaError_t double_backward(const Job& job, cudaStream_t stream) {
  return table[job.activation][static_cast<int>(job.scalar)](job, stream);
}

}  // namespace nnk::device
