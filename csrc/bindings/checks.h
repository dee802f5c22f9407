// What operators ask of their arguments, as a list at the head of each:
//
//   const Requirements needs("norm_apply");
//   needs.activation(activation);
//   needs.dense({"x", x});
//   needs.shape({"statistics", statistics}, {4, sets});
//
// A refusal names the operator, the argument and what was given: "nnkernels::norm_apply: statistics has shape [3],
// expected [4, 8]". Nothing is formatted unless a check fails. That tensors are on the CPU is the dispatcher's concern:
// it calls the CPU's operators only where all are.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <initializer_list>
#include <ostream>
#include <sstream>
#include <stdexcept>

#include "../kernels.h"

namespace nnk {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Shape {
  const int64_t* sizes;
  size_t dims;
  explicit Shape(const Tensor& t) : Shape(t.sizes().data(), t.sizes().size()) {}
  Shape(const int64_t* first, size_t count) : sizes(first), dims(count) {}
};

inline std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << '[';
  for (size_t d = 0; d < shape.dims; ++d) out << (d ? ", " : "") << shape.sizes[d];
  return out << ']';
}

inline const char* name_of(ScalarType type) {
  switch (type) {
    case ScalarType::Double: return "float64";
    case ScalarType::Float: return "float32";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Half: return "float16";
    case ScalarType::Long: return "int64";
    case ScalarType::Byte: return "uint8";
    default: return torch::headeronly::toString(type);
  }
}

inline bool is_floating(ScalarType type) {
  return type == ScalarType::Double || type == ScalarType::Float || type == ScalarType::BFloat16 ||
         type == ScalarType::Half;
}

// The type that kernels compute in for data of type `stored`.
inline ScalarType computing_type(ScalarType stored) {
  return stored == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// An optional operand that is not given is an empty vector: nothing else is told apart from a tensor that does not fit.
inline bool is_given(const Tensor& t) { return t.dim() != 1 || t.numel() != 0; }

// From the first element of a tensor that is not empty to its last one, in elements.
inline int64_t distance_to_last(const Tensor& t) {
  const auto sizes = t.sizes(), strides = t.strides();
  int64_t last = 0;
  for (size_t d = 0; d < sizes.size(); ++d) last += (sizes[d] - 1) * strides[d];
  return last;
}

// Whether the elements lie side by side, in some order of the dimensions.
inline bool is_dense(const Tensor& t) {
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

// Whether tensors of one shape lie in memory alike.
inline bool lie_alike(const Tensor& t, const Tensor& x) {
  if (t.numel() == 0) return true;
  const auto sizes = x.sizes(), ours = t.strides(), theirs = x.strides();
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] != 1 && ours[d] != theirs[d]) return false;
  }
  return true;
}

// Whether `factors`, none of them negative, multiply to `product`: without multiplying, which may overflow.
inline bool multiply_to(int64_t product, std::initializer_list<int64_t> factors) {
  int64_t rest = product;
  bool zero = false;
  for (const int64_t factor : factors) {
    if (factor == 0) {
      zero = true;
    } else if (rest % factor != 0) {
      return false;
    } else {
      rest /= factor;
    }
  }
  return zero ? product == 0 : rest == 1;
}

struct Argument {
  const char* name;
  const Tensor& tensor;
};

class Requirements {
 public:
  explicit Requirements(const char* operation) : operation_(operation) {}

  template <class... Words>
  void that(bool fulfilled, const Words&... words) const {
    if (!fulfilled) refuse(words...);
  }

  void activation(int64_t index, int64_t count) const {
    that(index >= 0 && index < count, "no activation has index ", index);
  }

  void in_range(const char* name, int64_t value, int64_t least, int64_t most) const {
    that(value >= least && value <= most, name, " is ", value, ", expected ", least, " to ", most);
  }

  // Memory that the tensor's sizes and strides stay within: a storage can be shrunk behind a tensor's back.
  void allocated(const Argument& a) const {
    if (a.tensor.numel() == 0) return;
    int64_t bytes = 0;
    that(aoti_torch_get_storage_size(a.tensor.get(), &bytes) == 0, a.name, " has no memory");
    const int64_t end = a.tensor.storage_offset() + distance_to_last(a.tensor) + 1;
    const int64_t size = a.tensor.element_size();
    that(end <= bytes / size, a.name, " of shape ", Shape(a.tensor), " ends after ", end, " elements of ", size,
         " bytes, in a storage of ", bytes, " bytes");
  }

  void floating(const Argument& a) const {
    const ScalarType type = a.tensor.scalar_type();
    that(is_floating(type), a.name, " is ", name_of(type), ", expected float64, float32, bfloat16 or float16");
    allocated(a);
  }

  void dtype(const Argument& a, ScalarType type) const {
    const ScalarType own = a.tensor.scalar_type();
    that(own == type, a.name, " is ", name_of(own), ", expected ", name_of(type));
    allocated(a);
  }

  void shape(const Argument& a, std::initializer_list<int64_t> sizes) const {
    that(a.tensor.sizes().equals({sizes.begin(), sizes.size()}), a.name, " has shape ", Shape(a.tensor), ", expected ",
         Shape(sizes.begin(), sizes.size()));
  }

  void elements(const Argument& a, int64_t count) const {
    that(a.tensor.numel() == count, a.name, " has shape ", Shape(a.tensor), ", expected ", count, " elements");
  }

  void matrix(const Argument& a) const {
    that(a.tensor.dim() == 2, a.name, " has shape ", Shape(a.tensor), ", expected a matrix");
  }

  void contiguous(const Argument& a) const {
    that(a.tensor.is_contiguous(), a.name, " of shape ", Shape(a.tensor), " is not contiguous");
  }

  void dense(const Argument& a) const {
    that(is_dense(a.tensor), a.name, " of shape ", Shape(a.tensor), " is not dense");
  }

  // As `like` in shape, type and device.
  void alike(const Argument& a, const Argument& like) const {
    const Tensor &t = a.tensor, &x = like.tensor;
    that(t.sizes().equals(x.sizes()), a.name, " has shape ", Shape(t), ", expected ", Shape(x), " as ", like.name);
    const ScalarType own = t.scalar_type(), type = x.scalar_type();
    that(own == type, a.name, " is ", name_of(own), ", expected ", name_of(type), " as ", like.name);
    that(t.device() == x.device(), a.name, " and ", like.name, " are on two devices");
    allocated(a);
  }

  // As `like` in memory as well.
  void laid_out_as(const Argument& a, const Argument& like) const {
    alike(a, like);
    that(lie_alike(a.tensor, like.tensor), a.name, " of shape ", Shape(a.tensor), " does not lie in memory as ",
         like.name, " does");
  }

  // A contiguous vector.
  void vector(const Argument& a, int64_t count, ScalarType type) const {
    shape(a, {count});
    dtype(a, type);
    contiguous(a);
  }

  // What is written shares no memory with `other`. Between tensors that are not dense the answer would cost too much.
  void apart(const Argument& written, const Argument& other) const {
    that(!overlap(written.tensor, other.tensor), written.name, " overlaps ", other.name, " in memory");
  }

  // The same, or `written` is `other`.
  void apart_or_same(const Argument& written, const Argument& other) const {
    const Tensor &t = written.tensor, &x = other.tensor;
    if (t.const_data_ptr() == x.const_data_ptr() && t.sizes().equals(x.sizes()) && lie_alike(t, x)) return;
    apart(written, other);
  }

 private:
  const char* operation_;

  // Thrown as STD_TORCH_CHECK does, whose message would begin with a line of this file.
  template <class... Words>
  [[noreturn]] void refuse(const Words&... words) const {
    std::ostringstream message;
    message << "nnkernels::" << operation_ << ": ";
    (message << ... << words);
    throw std::runtime_error(message.str());
  }

  static bool overlap(const Tensor& t, const Tensor& x) {
    const int64_t ours = t.numel() * t.element_size(), theirs = x.numel() * x.element_size();
    const char *begin = static_cast<const char*>(t.const_data_ptr()),
               *start = static_cast<const char*>(x.const_data_ptr());
    return ours && theirs && is_dense(t) && is_dense(x) && begin < start + theirs && start < begin + ours;
  }
};

}  // namespace nnk
