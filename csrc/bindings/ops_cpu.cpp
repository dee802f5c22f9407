// The CPU library: declares the operators and runs them over torch's own threads.
#include "batch_normalization.h"
#include "fused.h"
#include "gated.h"
#include "learned.h"
#include "normalization.h"
#include "ops.h"
#include "pooling.h"
#include "random.h"
#include "reducing.h"
#include "saving.h"
#include "spiking.h"

extern "C" NNK_EXPORT int nnk_cpu_launch(const nnk::Job* job, int) {
  // As many elements for each thread as ATen gives its own elementwise loops.
  constexpr int64_t kGrain = 32768;
  const int64_t elements = job->rows * job->cols;
  if (elements <= kGrain) {
    nnk_cpu_run(job, 0, elements);
  } else {
    torch::stable::parallel_for(0, elements, kGrain, [&](int64_t begin, int64_t end) { nnk_cpu_run(job, begin, end); });
  }
  return 0;
}

namespace nnk {

void run(const Job& job, int device_index) { nnk_cpu_launch(&job, device_index); }

STABLE_TORCH_LIBRARY(nnkernels, m) {
  m.def("forward(Tensor x, int activation, float a, float b) -> Tensor");
  m.def("forward_(Tensor(a!) x, int activation, float a, float b) -> ()");
  m.def("backward(Tensor grad, Tensor x, int activation, float a, float b) -> Tensor");
  m.def(
      "double_backward(Tensor grad_grad, Tensor grad, Tensor x, int activation, float a, float b) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  implement(m);
  m.impl("double_backward", TORCH_BOX(&double_backward));
}

}  // namespace nnk
