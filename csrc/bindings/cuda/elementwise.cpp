// Queues the stateless activations' operators on the tensor's device and that device's current stream.
#include "../elementwise.h"

#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "stream.h"

// Through the one shim that lives in libtorch_cuda, found in the running torch: this library is also built against a
// torch without CUDA, where there is nothing to link to.
void* nnk::current_stream(int32_t device_index) {
  using Shim = AOTITorchError (*)(int32_t, void**);
  static const Shim shim = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library ? reinterpret_cast<Shim>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  STD_TORCH_CHECK(shim, "nnkernels: libtorch_cuda of the running torch is not loaded");
  void* stream = nullptr;
  STD_TORCH_CHECK(shim(device_index, &stream) == 0, "nnkernels: device ", device_index, " has no current stream");
  return stream;
}

extern "C" NNK_EXPORT int nnk_cuda_launch(const nnk::Job* job, int device_index) {
  torch::stable::accelerator::DeviceGuard guard(device_index);
  return nnk_cuda_run(job, nnk::current_stream(device_index));
}

namespace nnk {

void run(const Job& job, int device_index) {
  const int error = nnk_cuda_launch(&job, device_index);
  STD_TORCH_CHECK(error == 0, "nnkernels: CUDA error ", error, " when launching a kernel on device ", device_index);
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CUDA, m) {
  m.impl("forward", TORCH_BOX(&forward));
  m.impl("forward_", TORCH_BOX(&forward_));
  m.impl("backward", TORCH_BOX(&backward));
}

}  // namespace nnk
