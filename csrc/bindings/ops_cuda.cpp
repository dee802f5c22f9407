// The CUDA library: queues the operators on the tensor's device and that device's current stream.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "ops.h"

extern "C" {
AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

NNK_EXPORT int nnk_cuda_launch(const nnk::Job* job, int device_index) {
  torch::stable::accelerator::DeviceGuard guard(device_index);
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_index, &stream));
  return nnk_cuda_run(job, stream);
}
}

namespace nnk {

void run(const Job& job, int device_index) {
  const int error = nnk_cuda_launch(&job, device_index);
  STD_TORCH_CHECK(error == 0, "nnkernels: CUDA error ", error, " when launching a kernel on device ", device_index);
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CUDA, m) { implement(m); }

}  // namespace nnk
