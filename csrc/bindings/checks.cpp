#include "checks.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <stdexcept>

namespace nnk {
namespace {

int count_activations() {
  static const int count = [] {
    int names = 1;
    for (const char* c = nnk_activation_names(); *c; ++c) names += *c == ',';
    return names;
  }();
  return count;
}

bool overlap(const Tensor& t, const Tensor& x) {
  const int64_t ours = t.numel() * t.element_size(), theirs = x.numel() * x.element_size();
  const char *begin = static_cast<const char*>(t.const_data_ptr()),
             *start = static_cast<const char*>(x.const_data_ptr());
  return ours && theirs && is_dense(t) && is_dense(x) && begin < start + theirs && start < begin + ours;
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << '[';
  for (size_t d = 0; d < shape.dims; ++d) out << (d ? ", " : "") << shape.sizes[d];
  return out << ']';
}

const char* name_of(ScalarType type) {
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

bool multiply_to(int64_t product, std::initializer_list<int64_t> factors) {
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

void Requirements::refuse(const std::string& message) const {
  throw std::runtime_error("nnkernels::" + std::string(operation_) + ": " + message);
}

void Requirements::activation(int64_t index) const {
  that(index >= 0 && index < count_activations(), "no activation has index ", index);
}

void Requirements::in_range(const char* name, int64_t value, int64_t least, int64_t most) const {
  that(value >= least && value <= most, name, " is ", value, ", expected ", least, " to ", most);
}

void Requirements::allocated(const Argument& a) const {
  if (!a.tensor || a.tensor->numel() == 0) return;
  int64_t bytes = 0;
  that(aoti_torch_get_storage_size(a.tensor->get(), &bytes) == 0, a.name, " has no memory");
  const int64_t end = a.tensor->storage_offset() + distance_to_last(*a.tensor) + 1;
  const int64_t size = a.tensor->element_size();
  that(end <= bytes / size, a.name, " of shape ", Shape(*a.tensor), " ends after ", end, " elements of ", size,
       " bytes, in a storage of ", bytes, " bytes");
}

void Requirements::floating(const Argument& a) const {
  if (!a.tensor) return;
  const ScalarType type = a.tensor->scalar_type();
  that(is_floating(type), a.name, " is ", name_of(type), ", expected float64, float32, bfloat16 or float16");
  allocated(a);
}

void Requirements::dtype(const Argument& a, ScalarType type) const {
  if (!a.tensor) return;
  const ScalarType own = a.tensor->scalar_type();
  that(own == type, a.name, " is ", name_of(own), ", expected ", name_of(type));
  allocated(a);
}

void Requirements::shape(const Argument& a, std::initializer_list<int64_t> sizes) const {
  if (!a.tensor) return;
  that(a.tensor->sizes().equals({sizes.begin(), sizes.size()}), a.name, " has shape ", Shape(*a.tensor), ", expected ",
       Shape(sizes.begin(), sizes.size()));
}

void Requirements::elements(const Argument& a, int64_t count) const {
  if (!a.tensor) return;
  that(a.tensor->numel() == count, a.name, " has shape ", Shape(*a.tensor), ", expected ", count, " elements");
}

void Requirements::matrix(const Argument& a) const {
  if (!a.tensor) return;
  that(a.tensor->dim() == 2, a.name, " has shape ", Shape(*a.tensor), ", expected a matrix");
}

void Requirements::contiguous(const Argument& a) const {
  if (!a.tensor) return;
  that(a.tensor->is_contiguous(), a.name, " of shape ", Shape(*a.tensor), " is not contiguous");
}

void Requirements::dense(const Argument& a) const {
  if (!a.tensor) return;
  that(is_dense(*a.tensor), a.name, " of shape ", Shape(*a.tensor), " is not dense");
}

void Requirements::alike(const Argument& a, const Argument& like) const {
  if (!a.tensor) return;
  const Tensor &t = *a.tensor, &x = *like.tensor;
  that(t.sizes().equals(x.sizes()), a.name, " has shape ", Shape(t), ", expected ", Shape(x), " as ", like.name);
  const ScalarType own = t.scalar_type(), type = x.scalar_type();
  that(own == type, a.name, " is ", name_of(own), ", expected ", name_of(type), " as ", like.name);
  that(t.device() == x.device(), a.name, " and ", like.name, " are on two devices");
  allocated(a);
}

void Requirements::alike(Arguments all, const Argument& like) const {
  for (const Argument& a : all) alike(a, like);
}

void Requirements::laid_out_as(const Argument& a, const Argument& like) const {
  if (!a.tensor) return;
  alike(a, like);
  that(lie_alike(*a.tensor, *like.tensor), a.name, " of shape ", Shape(*a.tensor), " does not lie in memory as ",
       like.name, " does");
}

void Requirements::numbers(const Argument& a, std::initializer_list<int64_t> sizes, ScalarType type) const {
  shape(a, sizes);
  dtype(a, type);
  contiguous(a);
}

void Requirements::apart(const Argument& written, const Argument& other) const {
  if (!written.tensor || !other.tensor) return;
  that(!overlap(*written.tensor, *other.tensor), written.name, " overlaps ", other.name, " in memory");
}

void Requirements::apart(Arguments written, Arguments read) const {
  for (const Argument& a : written) {
    for (const Argument& other : read) apart(a, other);
  }
}

void Requirements::apart_or_same(const Argument& written, const Argument& other) const {
  const Tensor &t = *written.tensor, &x = *other.tensor;
  if (t.const_data_ptr() == x.const_data_ptr() && t.sizes().equals(x.sizes()) && lie_alike(t, x)) return;
  apart(written, other);
}

void Requirements::apart_or_same(Arguments written, Arguments read) const {
  for (const Argument& a : written) {
    for (const Argument& other : read) apart_or_same(a, other);
  }
}

}  // namespace nnk
