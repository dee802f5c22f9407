// softmax's operators, over rows and masks that nnkernels/cpu/reducing.py has laid out.
#pragma once

#include <functional>
#include <optional>
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

// Steps along several dimensions; in double, which holds the size of any memory and overflows in no product.
struct Reach {
  double last = 0;

  Reach& along(int64_t size, int64_t stride) {
    STD_TORCH_CHECK(size > 0 && stride >= 0, "nnkernels: expected a positive size and a stride of 0 or more, got ",
                    size, " and ", stride);
    last += (static_cast<double>(size) - 1) * static_cast<double>(stride);
    return *this;
  }
};

// That `t` has an element so far from its first.
inline void check_reaches(const Tensor& t, const Reach& reach, const char* name) {
  double last = -1;
  if (t.numel()) {
    last = 0;
    for (int64_t d = 0; d < t.dim(); ++d) {
      last += (static_cast<double>(t.size(d)) - 1) * static_cast<double>(t.stride(d));
    }
  }
  STD_TORCH_CHECK(reach.last <= last, "nnkernels: ", name, " ends before the layout that was given for it: element ",
                  reach.last, " of ", last + 1);
}

inline bool is_16_bit(const Tensor& t) {
  return t.scalar_type() == torch::headeronly::ScalarType::BFloat16 ||
         t.scalar_type() == torch::headeronly::ScalarType::Half;
}

// (outer, n, inner), as which a contiguous tensor is seen.
struct Sizes {
  int64_t outer, n, inner;

  // Without a product that could overflow.
  void check(const Tensor& t) const {
    const int64_t numel = t.numel();
    STD_TORCH_CHECK(outer > 0 && n > 0 && inner > 0 && numel % n == 0 && numel / n % inner == 0 &&
                        numel / n / inner == outer && t.is_contiguous(),
                    "nnkernels: expected a contiguous tensor of ", outer, " x ", n, " x ", inner, " elements, got ",
                    numel);
  }
  void check_rows(const Tensor& t, int64_t stride, const char* name) const {
    check_reaches(t, Reach().along(outer, stride).along(n * inner, 1), name);
  }
};

// `layout` is sizes, strides, the stride along n and the one along inner. A mask to add is of the type in which `like`
// is computed; where there is no mask, any tensor stands for it.
inline Mask checked_mask(const Tensor& mask, int64_t kind, const std::vector<int64_t>& layout, const Sizes& sizes,
                         const Tensor& like) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(kind >= 0 && kind <= static_cast<int64_t>(MaskKind::add), "nnkernels: no kind of mask is ", kind);
  STD_TORCH_CHECK(layout.size() == 2 * kMaskDigits + 2, "nnkernels: expected ", 2 * kMaskDigits + 2, " numbers");
  Mask found{static_cast<MaskKind>(kind), mask.data_ptr(), {}, {}, 0, 0};
  if (found.kind == MaskKind::none) return found;
  const ScalarType type = mask.scalar_type();
  if (found.kind == MaskKind::keep) {
    STD_TORCH_CHECK(type == ScalarType::Bool, "nnkernels: expected a bool mask");
  } else {
    const bool wide = like.scalar_type() == ScalarType::Double;
    STD_TORCH_CHECK(type == (wide ? ScalarType::Double : ScalarType::Float), "nnkernels: expected a mask of ",
                    wide ? "float64" : "float32");
  }
  STD_TORCH_CHECK(mask.device() == like.device(), "nnkernels: expected tensors on one device");
  Reach reach;
  for (int i = 0; i < kMaskDigits; ++i) {
    found.sizes[i] = layout[i];
    found.strides[i] = layout[kMaskDigits + i];
    reach.along(found.sizes[i], found.strides[i]);
  }
  found.dim_stride = layout[2 * kMaskDigits];
  found.inner_stride = layout[2 * kMaskDigits + 1];
  check_reaches(mask, reach.along(sizes.n, found.dim_stride).along(sizes.inner, found.inner_stride), "the mask");
  return found;
}

inline Statistics checked_statistics(const Tensor& statistics, const Sizes& sizes, const Tensor& like) {
  const int64_t rows = sizes.outer * sizes.inner;
  STD_TORCH_CHECK(statistics.scalar_type() == torch::headeronly::ScalarType::Float && statistics.is_contiguous() &&
                      statistics.numel() == 2 * rows && statistics.device() == like.device(),
                  "nnkernels: expected 2 x ", rows, " statistics in float32");
  float* data = static_cast<float*>(statistics.mutable_data_ptr());
  return {data, data + rows};
}

inline void check_queries(int64_t queries) {
  STD_TORCH_CHECK(queries >= 0, "nnkernels: expected a number of queries, got ", queries);
}

inline void softmax_out(const Tensor& x, Tensor y, std::optional<Tensor> statistics, int64_t outer, int64_t n,
                        int64_t inner, int64_t x_stride, bool log, double scale, const Tensor& mask, int64_t mask_kind,
                        std::vector<int64_t> mask_layout, int64_t queries) {
  check_alike(x, y);
  if (y.numel() == 0) return;
  const Sizes sizes{outer, n, inner};
  sizes.check(y);
  sizes.check_rows(x, x_stride, "the input");
  check_queries(queries);
  SoftmaxJob job{scalar_of(x), log, scale, n, inner, queries, x.data_ptr(), x_stride, y.mutable_data_ptr(), {}, {}};
  job.mask = checked_mask(mask, mask_kind, mask_layout, sizes, x);
  if (statistics) {
    STD_TORCH_CHECK(log, "nnkernels: only a logarithm has statistics");
    job.statistics = checked_statistics(*statistics, sizes, x);
  }
  parallel_rows(outer, n, inner, [&](int64_t begin, int64_t end) { softmax(job, begin, end); });
}

inline void softmax_backward_out(const Tensor& grad, const Tensor& y, Tensor grad_x, int64_t outer, int64_t n,
                                 int64_t inner, int64_t grad_stride, bool log, double scale, bool masked,
                                 int64_t queries) {
  check_alike(grad_x, y);
  check_alike(grad, y);
  if (y.numel() == 0) return;
  const Sizes sizes{outer, n, inner};
  sizes.check(y);
  sizes.check(grad_x);
  sizes.check_rows(grad, grad_stride, "the gradient");
  check_queries(queries);
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

inline void log_softmax_backward_out(const Tensor& grad, const Tensor& x, const Tensor& statistics, Tensor grad_x,
                                     int64_t outer, int64_t n, int64_t inner, int64_t grad_stride, int64_t x_stride,
                                     double scale, const Tensor& mask, int64_t mask_kind,
                                     std::vector<int64_t> mask_layout, int64_t queries) {
  check_alike(x, grad_x);
  const bool wide_grad = grad.scalar_type() == torch::headeronly::ScalarType::Float;
  STD_TORCH_CHECK(is_16_bit(x), "nnkernels: expected a bfloat16 or float16 input");
  if (wide_grad) {
    STD_TORCH_CHECK(grad.sizes().equals(x.sizes()), "nnkernels: expected tensors of one shape");
    STD_TORCH_CHECK(grad.device() == x.device(), "nnkernels: expected tensors on one device");
  } else {
    check_alike(grad, x);
  }
  if (x.numel() == 0) return;
  const Sizes sizes{outer, n, inner};
  sizes.check(grad_x);
  sizes.check_rows(grad, grad_stride, "the gradient");
  sizes.check_rows(x, x_stride, "the input");
  check_queries(queries);
  const LogSoftmaxBackwardJob job{scalar_of(x),
                                  wide_grad,
                                  scale,
                                  n,
                                  inner,
                                  queries,
                                  grad.data_ptr(),
                                  grad_stride,
                                  x.data_ptr(),
                                  x_stride,
                                  grad_x.mutable_data_ptr(),
                                  checked_mask(mask, mask_kind, mask_layout, sizes, x),
                                  checked_statistics(statistics, sizes, x)};
  parallel_rows(outer, n, inner, [&](int64_t begin, int64_t end) { log_softmax_backward(job, begin, end); });
}

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def(
      "softmax(Tensor x, Tensor(a!) y, Tensor(b!)? statistics, int outer, int n, int inner, int x_stride, bool log, "
      "float scale, Tensor mask, int mask_kind, int[] mask_layout, int queries) -> ()");
  m.def(
      "softmax_backward(Tensor grad, Tensor y, Tensor(a!) grad_x, int outer, int n, int inner, int grad_stride, "
      "bool log, float scale, bool masked, int queries) -> ()");
  m.def(
      "log_softmax_backward(Tensor grad, Tensor x, Tensor statistics, Tensor(a!) grad_x, int outer, int n, int inner, "
      "int grad_stride, int x_stride, float scale, Tensor mask, int mask_kind, int[] mask_layout, int queries) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("softmax", TORCH_BOX(&softmax_out));
  m.impl("softmax_backward", TORCH_BOX(&softmax_backward_out));
  m.impl("log_softmax_backward", TORCH_BOX(&log_softmax_backward_out));
}

}  // namespace nnk
