#include "tensors.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/Exception.h>

#include <vector>

namespace nnk {

Scalar scalar_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Double: return Scalar::f64;
    case ScalarType::Float: return Scalar::f32;
    case ScalarType::BFloat16: return Scalar::bf16;
    case ScalarType::Half: return Scalar::f16;
    default: break;
  }
  STD_TORCH_CHECK(false, "nnkernels: expected a float64, float32, bfloat16 or float16 tensor");
}

bool is_floating(ScalarType type) {
  return type == ScalarType::Double || type == ScalarType::Float || type == ScalarType::BFloat16 ||
         type == ScalarType::Half;
}

int64_t distance_to_last(const Tensor& t) {
  const auto sizes = t.sizes(), strides = t.strides();
  int64_t last = 0;
  for (size_t d = 0; d < sizes.size(); ++d) last += (sizes[d] - 1) * strides[d];
  return last;
}

bool is_dense(const Tensor& t) {
  if (t.is_contiguous() || t.numel() == 0) return true;
  const auto sizes = t.sizes(), strides = t.strides();
  const int64_t elements = t.numel();
  for (int64_t extent = 1; extent < elements;) {
    size_t d = 0;
    while (d < sizes.size() && (sizes[d] == 1 || strides[d] != extent)) ++d;
    if (d == sizes.size()) return false;
    extent *= sizes[d];
  }
  return true;
}

bool lie_alike(const Tensor& t, const Tensor& x) {
  if (t.numel() == 0) return true;
  const auto sizes = x.sizes(), ours = t.strides(), theirs = x.strides();
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] != 1 && ours[d] != theirs[d]) return false;
  }
  return true;
}

Tensor allocate(const Tensor& like, Extents sizes, Extents strides, ScalarType type) {
  int32_t device = 0;
  STD_TORCH_CHECK(aoti_torch_get_device_type(like.get(), &device) == AOTI_TORCH_SUCCESS, "nnkernels: no device");
  const auto number = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle made = nullptr;
  const auto error = aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), number,
                                              device, like.get_device_index(), &made);
  STD_TORCH_CHECK(error == AOTI_TORCH_SUCCESS, "nnkernels: no memory for a result");
  return Tensor(made);
}

Tensor allocate(const Tensor& like, Extents sizes, ScalarType type) {
  std::vector<int64_t> strides(sizes.size());
  int64_t extent = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = extent;
    extent *= sizes[d] > 0 ? sizes[d] : 1;
  }
  return allocate(like, sizes, {strides.data(), strides.size()}, type);
}

Tensor allocate_like(const Tensor& like) {
  return like.is_contiguous() ? allocate(like, like.sizes(), like.strides(), like.scalar_type())
                              : torch::stable::empty_like(like);
}

}  // namespace nnk
