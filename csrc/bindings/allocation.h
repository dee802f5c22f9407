// New tensors of the stable ABI. `torch::stable::empty_like` looks its operator up by name in every call; this does
// not.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <vector>

namespace nnk {

using Extents = torch::headeronly::IntHeaderOnlyArrayRef;

// A tensor on the device of `like`, not yet written.
inline torch::stable::Tensor allocate(const torch::stable::Tensor& like, Extents sizes, Extents strides,
                                      torch::headeronly::ScalarType type) {
  int32_t device = 0;
  STD_TORCH_CHECK(aoti_torch_get_device_type(like.get(), &device) == AOTI_TORCH_SUCCESS, "nnkernels: no device");
  const auto number = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle made = nullptr;
  const auto error = aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), number,
                                              device, like.get_device_index(), &made);
  STD_TORCH_CHECK(error == AOTI_TORCH_SUCCESS, "nnkernels: no memory for a result");
  return torch::stable::Tensor(made);
}

// The same, contiguous.
inline torch::stable::Tensor allocate(const torch::stable::Tensor& like, Extents sizes,
                                      torch::headeronly::ScalarType type) {
  std::vector<int64_t> strides(sizes.size());
  int64_t extent = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = extent;
    extent *= sizes[d] > 0 ? sizes[d] : 1;
  }
  return allocate(like, sizes, {strides.data(), strides.size()}, type);
}

// A tensor of the shape, type and, if it is dense, the strides of `like`.
inline torch::stable::Tensor allocate_like(const torch::stable::Tensor& like) {
  return like.is_contiguous() ? allocate(like, like.sizes(), like.strides(), like.scalar_type())
                              : torch::stable::empty_like(like);
}

}  // namespace nnk
