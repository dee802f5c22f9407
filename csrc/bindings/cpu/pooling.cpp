// Maxout. Tensors are dense, of any strides; only their memory counts, as csrc/cpu/pooling.h sees it.
#include "../../cpu/pooling.h"

#include <torch/csrc/stable/library.h>

#include "../launching.h"

namespace nnk {
namespace {

// `wide` holds the pieces, `narrow` one element for each group.
void check_maxout(const Requirements& needs, const Argument& wide, const Argument& narrow, const Argument& winners,
                  int64_t pieces, int64_t inner) {
  needs.in_range("pieces", pieces, 2, 256);
  needs.floating(wide);
  needs.dtype(narrow, wide.tensor->scalar_type());
  needs.dense(wide);
  needs.dense(narrow);
  const int64_t count = narrow.tensor->numel();
  needs.that(wide.tensor->numel() % pieces == 0 && wide.tensor->numel() / pieces == count, wide.name, " has shape ",
             Shape(*wide.tensor), ", expected ", pieces, " elements for each of the ", count, " of ", narrow.name);
  needs.that(count == 0 || (inner > 0 && count % inner == 0), "inner is ", inner, ", expected a divisor of ", count);
  if (!winners.tensor) return;
  const int64_t bytes = (count * winner_bits(pieces) + 7) / 8;
  needs.dtype(winners, ScalarType::Byte);
  needs.contiguous(winners);
  needs.that(winners.tensor->numel() >= bytes, "winners has shape ", Shape(*winners.tensor), ", expected at least ",
             bytes, " bytes");
}

template <class Kernel>
void run_maxout(Kernel kernel, const Tensor& in, const Tensor& out, const OptionalTensor& winners, int64_t pieces,
                int64_t inner) {
  const int64_t count = std::min(in.numel(), out.numel());
  if (count == 0) return;
  const MaxoutJob job{scalar_of(in),
                      pieces,
                      inner,
                      winner_bits(pieces),
                      in.mutable_data_ptr(),
                      out.mutable_data_ptr(),
                      static_cast<uint8_t*>(data_of(winners)),
                      winners ? winners->numel() : 0};
  in_tiles(count, kMaxoutTile, pieces, [&](int64_t begin, int64_t end) { kernel(job, begin, end); });
}

void maxout_op(const Tensor& x, Tensor y, OptionalTensor winners, int64_t pieces, int64_t inner) {
  const Requirements needs("maxout");
  check_maxout(needs, {"x", x}, {"y", y}, {"winners", winners}, pieces, inner);
  needs.apart({{"y", y}}, {{"x", x}, {"winners", winners}});
  needs.apart({"winners", winners}, {"x", x});

  run_maxout(maxout, x, y, winners, pieces, inner);
}

void maxout_backward_op(const Tensor& grad, const Tensor& winners, Tensor grad_x, int64_t pieces, int64_t inner) {
  const Requirements needs("maxout_backward");
  check_maxout(needs, {"grad_x", grad_x}, {"grad", grad}, {"winners", winners}, pieces, inner);
  needs.apart({{"grad_x", grad_x}}, {{"grad", grad}, {"winners", winners}});

  run_maxout(maxout_backward, grad, grad_x, winners, pieces, inner);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def("maxout(Tensor x, Tensor(a!) y, Tensor(b!)? winners, int pieces, int inner) -> ()");
  m.def("maxout_backward(Tensor grad, Tensor winners, Tensor(a!) grad_x, int pieces, int inner) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("maxout", TORCH_BOX(&maxout_op));
  m.impl("maxout_backward", TORCH_BOX(&maxout_backward_op));
}

}  // namespace nnk
