// The few calls of CUDA that a launch takes, looked up in the running process: this builds where there is no CUDA.
#pragma once

#include <c10/util/Exception.h>
#include <dlfcn.h>

#include <cstdint>

namespace nnk::driver {

template <class Function>
Function find(const char* library, const char* name) {
  void* handle = dlopen(library, RTLD_LAZY);
  void* found = handle ? dlsym(handle, name) : nullptr;
  TORCH_CHECK(found, "nnkernels: ", library, " has no ", name);
  return reinterpret_cast<Function>(found);
}

inline void check(int error, const char* what) {
  TORCH_CHECK(error == 0, "nnkernels: CUDA error ", error, " in ", what);
}

inline void* current_stream(int device) {
  using Shim = int (*)(int32_t, void**);
  static const auto shim = find<Shim>("libtorch_cuda.so", "aoti_torch_get_current_cuda_stream");
  void* stream = nullptr;
  check(shim(device, &stream), "aoti_torch_get_current_cuda_stream");
  // A thread of autograd's has no context until somebody has set its device.
  static const auto get_context = find<int (*)(void**)>("libcuda.so.1", "cuCtxGetCurrent");
  void* context = nullptr;
  check(get_context(&context), "cuCtxGetCurrent");
  if (!context) {
    static const auto retain = find<int (*)(void**, int)>("libcuda.so.1", "cuDevicePrimaryCtxRetain");
    static const auto set_context = find<int (*)(void*)>("libcuda.so.1", "cuCtxSetCurrent");
    check(retain(&context, device), "cuDevicePrimaryCtxRetain");
    check(set_context(context), "cuCtxSetCurrent");
  }
  return stream;
}

inline void launch(void* function, const unsigned* grid, unsigned threads, unsigned shared, void* stream,
                   void** arguments) {
  using Launch =
      int (*)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
  static const auto launch = find<Launch>("libcuda.so.1", "cuLaunchKernel");
  check(launch(function, grid[0], grid[1], grid[2], threads, 1, 1, shared, stream, arguments, nullptr),
        "cuLaunchKernel");
}

}  // namespace nnk::driver
