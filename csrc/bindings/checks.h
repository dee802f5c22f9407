// What operators ask of their arguments, as a list at the head of each:
//
//   const Requirements needs("norm_apply");
//   needs.activation(activation);
//   needs.dense({"x", x});
//   needs.shape({"statistics", statistics}, {4, sets});
//   needs.vector({"bias", bias}, x.size(1), computing_type(x));
//
// A refusal names the operator, the argument and what was given: "nnkernels::norm_apply: statistics has shape [3],
// expected [4, 8]". Nothing is formatted unless a check fails. Of an optional tensor that is not given nothing is
// asked. That tensors are on the CPU is the dispatcher's concern: it calls the CPU's operators only where all are.
#pragma once

#include <initializer_list>
#include <ostream>
#include <sstream>

#include "tensors.h"

namespace nnk {

struct Shape {
  const int64_t* sizes;
  size_t dims;
  explicit Shape(const Tensor& t) : Shape(t.sizes().data(), t.sizes().size()) {}
  Shape(const int64_t* first, size_t count) : sizes(first), dims(count) {}
};

std::ostream& operator<<(std::ostream& out, const Shape& shape);

const char* name_of(ScalarType type);

// Whether `factors`, none of them negative, multiply to `product`: without multiplying, which may overflow.
bool multiply_to(int64_t product, std::initializer_list<int64_t> factors);

struct Argument {
  const char* name;
  const Tensor* tensor;  // null: not given
  Argument(const char* name, const Tensor& tensor) : name(name), tensor(&tensor) {}
  Argument(const char* name, const OptionalTensor& tensor) : name(name), tensor(tensor ? &*tensor : nullptr) {}
};

using Arguments = std::initializer_list<Argument>;

class Requirements {
 public:
  explicit Requirements(const char* operation) : operation_(operation) {}

  template <class... Words>
  void that(bool fulfilled, const Words&... words) const {
    if (fulfilled) return;
    std::ostringstream message;
    (message << ... << words);
    refuse(message.str());
  }

  // The index of a stateless activation.
  void activation(int64_t index) const;

  void in_range(const char* name, int64_t value, int64_t least, int64_t most) const;

  // Memory that the tensor's sizes and strides stay within: a storage can be shrunk behind a tensor's back.
  void allocated(const Argument& a) const;
  void floating(const Argument& a) const;
  void dtype(const Argument& a, ScalarType type) const;
  void shape(const Argument& a, std::initializer_list<int64_t> sizes) const;
  void elements(const Argument& a, int64_t count) const;
  void matrix(const Argument& a) const;
  void contiguous(const Argument& a) const;
  void dense(const Argument& a) const;

  // As `like` in shape, type and device.
  void alike(const Argument& a, const Argument& like) const;
  void alike(Arguments all, const Argument& like) const;

  // As `like` in memory as well.
  void laid_out_as(const Argument& a, const Argument& like) const;

  // Contiguous numbers of one type.
  void vector(const Argument& a, int64_t count, ScalarType type) const { numbers(a, {count}, type); }
  void numbers(const Argument& a, std::initializer_list<int64_t> sizes, ScalarType type) const;

  // What is written shares no memory with what is read. Between tensors that are not dense the answer would cost too
  // much.
  void apart(const Argument& written, const Argument& other) const;
  void apart(Arguments written, Arguments read) const;

  // The same, or `written` is `other`.
  void apart_or_same(const Argument& written, const Argument& other) const;
  void apart_or_same(Arguments written, Arguments read) const;

 private:
  const char* operation_;

  // Thrown as STD_TORCH_CHECK does, whose message would begin with a line of a file.
  [[noreturn]] void refuse(const std::string& message) const;
};

}  // namespace nnk
