// Sparsemax along one dimension of contiguous tensors, and its gradient from the output.
#include "../../cpu/sparsemax.h"

#include <torch/csrc/stable/library.h>

#include "../launching.h"

namespace nnk {
namespace {

// Rows of `x`, which is the output in backward, of which `inner` lie side by side.
SparsemaxJob sparsemax_job(const Requirements& needs, const Argument& x, const Argument& out, int64_t size,
                           int64_t inner) {
  needs.floating(x);
  needs.contiguous(x);
  needs.alike(out, x);
  needs.contiguous(out);
  needs.apart({out}, {x});
  needs.that(size > 0 && inner > 0 && x.tensor->numel() % (size * inner) == 0, x.name, " of shape ", Shape(*x.tensor),
             " is not made of rows of size ", size, ", ", inner, " apart");
  return {scalar_of(*x.tensor), size, inner, x.tensor->const_data_ptr(), nullptr, out.tensor->mutable_data_ptr()};
}

void sparsemax_op(const Tensor& x, Tensor y, int64_t size, int64_t inner) {
  const Requirements needs("sparsemax");
  const SparsemaxJob job = sparsemax_job(needs, {"x", x}, {"y", y}, size, inner);
  in_parallel(x.numel() / size, size, [&](int64_t begin, int64_t end) { sparsemax(job, begin, end); });
}

void sparsemax_backward_op(const Tensor& grad, const Tensor& y, Tensor grad_x, int64_t size, int64_t inner) {
  const Requirements needs("sparsemax_backward");
  SparsemaxJob job = sparsemax_job(needs, {"y", y}, {"grad_x", grad_x}, size, inner);
  needs.alike({"grad", grad}, {"y", y});
  needs.contiguous({"grad", grad});
  needs.apart({{"grad_x", grad_x}}, {{"grad", grad}});
  job.grad = grad.const_data_ptr();
  in_parallel(y.numel() / size, size, [&](int64_t begin, int64_t end) { sparsemax_backward(job, begin, end); });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def("sparsemax(Tensor x, Tensor(a!) y, int size, int inner) -> ()");
  m.def("sparsemax_backward(Tensor grad, Tensor y, Tensor(a!) grad_x, int size, int inner) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("sparsemax", TORCH_BOX(&sparsemax_op));
  m.impl("sparsemax_backward", TORCH_BOX(&sparsemax_backward_op));
}

}  // namespace nnk
