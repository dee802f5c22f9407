// What the native parts were built from and with.
#include <pybind11/pybind11.h>

PYBIND11_MODULE(_build_info, m) {
  m.def(
      "build_info",
      [] {
        pybind11::dict facts;
        facts["built_under_torch"] = NNK_BUILT_UNDER_TORCH;
        facts["stable_abi_target"] = NNK_ABI_TARGET;
        facts["compiler"] = NNK_COMPILER;
        facts["nvcc"] = NNK_NVCC;
        facts["cuda_architectures"] = NNK_CUDA_ARCHS;
        facts["sources"] = NNK_SOURCES;
        return facts;
      },
      "Versions and the sources' digest of this build, by name.");
}
