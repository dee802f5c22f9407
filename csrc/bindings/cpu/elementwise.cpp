// Declares the stateless activations' operators and runs them over torch's own threads.
#include "../elementwise.h"

#include <torch/csrc/stable/library.h>

#include "../launching.h"

extern "C" NNK_EXPORT int nnk_cpu_launch(const nnk::Job* job, int) {
  nnk::in_parallel(job->rows * job->cols, 1, [&](int64_t begin, int64_t end) { nnk_cpu_run(job, begin, end); });
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
  m.impl("forward", TORCH_BOX(&forward));
  m.impl("forward_", TORCH_BOX(&forward_));
  m.impl("backward", TORCH_BOX(&backward));
  m.impl("double_backward", TORCH_BOX(&double_backward));
}

}  // namespace nnk
