// Tensors of the stable ABI: what operators ask of them, and how they get new ones.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>

#include "../cpu/numbers.h"
#include "../kernels.h"

namespace nnk {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Extents = torch::headeronly::IntHeaderOnlyArrayRef;

// The scalar type of a floating tensor.
Scalar scalar_of(const Tensor& t);

bool is_floating(ScalarType type);

// The type that kernels compute in for data of type `stored`.
inline ScalarType computing_type(ScalarType stored) {
  return stored == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}
inline ScalarType computing_type(const Tensor& stored) { return computing_type(stored.scalar_type()); }

// From the first element of a tensor that is not empty to its last one, in elements.
int64_t distance_to_last(const Tensor& t);

// Whether the elements lie side by side, in some order of the dimensions.
bool is_dense(const Tensor& t);

// Whether tensors of one shape lie in memory alike.
bool lie_alike(const Tensor& t, const Tensor& x);

// Null where there is no tensor or no element.
inline void* data_of(const Tensor& t) { return t.numel() == 0 ? nullptr : t.mutable_data_ptr(); }
inline void* data_of(const OptionalTensor& t) { return t ? data_of(*t) : nullptr; }

inline Numbers numbers_of(const Tensor& t) { return {data_of(t), scalar_of(t)}; }
inline Numbers numbers_of(const OptionalTensor& t) { return t ? numbers_of(*t) : Numbers(); }

// A tensor on the device of `like`, not yet written; contiguous where no strides are given. Unlike
// `torch::stable::empty_like` this does not look its operator up by name in every call.
Tensor allocate(const Tensor& like, Extents sizes, Extents strides, ScalarType type);
Tensor allocate(const Tensor& like, Extents sizes, ScalarType type);

// A tensor of the shape, type and, if it is dense, the strides of `like`.
Tensor allocate_like(const Tensor& like);

}  // namespace nnk
