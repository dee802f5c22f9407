// What the native parts were built from and with.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>

PYBIND11_MODULE(_build_info, m) {
  m.def(
      "build_info",
      [] {
        return std::map<std::string, std::string>{
            {"built_under_torch", NNK_BUILT_UNDER_TORCH},
            {"stable_abi_target", NNK_ABI_TARGET},
            {"compiler", NNK_COMPILER},
            {"nvcc", NNK_NVCC},
            {"cuda_architectures", NNK_CUDA_ARCHS},
            {"sources", NNK_SOURCES},
        };
      },
      "Versions and the sources' digest of this build, by name.");
}
