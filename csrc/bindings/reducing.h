// softmax's operators, over rows and masks that nnkernels/cpu/reducing.py has laid out.
#pragma once

#include <functional>
#include <vector>

#include "../cpu/reducing.h"
#include "ops.h"

namespace nnk {

// As many elements for each thread as for the elementwise loops.
inline void parallel_rows(int64_t outer, int64_t n, int64_t inner, const std::function<void(int64_t, int64_t)>& body) {
  const int64_t units = outer * strips(inner);
  const int64_t size = n * (inner < kStrip ? inner : kStrip);
  const int64_t grain = 32768 / size > 1 ? 32768 / size : 1;
  if (units <= grain) return body(0, units);
  torch::stable::parallel_for(0, units, grain, body);
}

// `mask_layout` is sizes, strides, the stride along n and the one along inner; mask is `x` itself where there is none.
inline void softmax_out(const Tensor& x, Tensor y, int64_t outer, int64_t n, int64_t inner, int64_t x_stride, bool log,
                        double scale, const Tensor& mask, int64_t mask_kind, std::vector<int64_t> mask_layout,
                        int64_t queries) {
  STD_TORCH_CHECK(x.scalar_type() == y.scalar_type(), "nnkernels: expected tensors of one dtype");
  STD_TORCH_CHECK(y.numel() == outer * n * inner && y.is_contiguous(), "nnkernels: the output does not fit");
  STD_TORCH_CHECK(mask_layout.size() == 2 * kMaskDigits + 2, "nnkernels: expected ", 2 * kMaskDigits + 2, " numbers");
  if (y.numel() == 0) return;
  SoftmaxJob job{scalar_of(x), log, scale, n, inner, queries, x.data_ptr(), x_stride, y.mutable_data_ptr(), {}};
  job.mask.kind = static_cast<MaskKind>(mask_kind);
  job.mask.data = mask.data_ptr();
  for (int i = 0; i < kMaskDigits; ++i) {
    job.mask.sizes[i] = mask_layout[i];
    job.mask.strides[i] = mask_layout[kMaskDigits + i];
  }
  job.mask.dim_stride = mask_layout[2 * kMaskDigits];
  job.mask.inner_stride = mask_layout[2 * kMaskDigits + 1];
  parallel_rows(outer, n, inner, [&](int64_t begin, int64_t end) { softmax(job, begin, end); });
}

inline void softmax_backward_out(const Tensor& grad, const Tensor& y, Tensor grad_x, int64_t outer, int64_t n,
                                 int64_t inner, int64_t grad_stride, bool log, double scale, bool masked,
                                 int64_t queries) {
  check_alike(grad_x, y);
  STD_TORCH_CHECK(grad.scalar_type() == y.scalar_type(), "nnkernels: expected tensors of one dtype");
  STD_TORCH_CHECK(y.numel() == outer * n * inner && y.is_contiguous() && grad_x.is_contiguous(),
                  "nnkernels: the output does not fit");
  if (y.numel() == 0) return;
  const SoftmaxBackwardJob job{scalar_of(y),
                               log,
                               masked,
                               scale,
                               n,
                               inner,
                               queries,
                               grad.data_ptr(),
                               grad_stride,
                               y.data_ptr(),
                               grad_x.mutable_data_ptr()};
  parallel_rows(outer, n, inner, [&](int64_t begin, int64_t end) { softmax_backward(job, begin, end); });
}

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def(
      "softmax(Tensor x, Tensor(a!) y, int outer, int n, int inner, int x_stride, bool log, float scale, Tensor mask, "
      "int mask_kind, int[] mask_layout, int queries) -> ()");
  m.def(
      "softmax_backward(Tensor grad, Tensor y, Tensor(a!) grad_x, int outer, int n, int inner, int grad_stride, "
      "bool log, float scale, bool masked, int queries) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("softmax", TORCH_BOX(&softmax_out));
  m.impl("softmax_backward", TORCH_BOX(&softmax_backward_out));
}

}  // namespace nnk
