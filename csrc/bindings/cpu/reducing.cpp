// softmax and its kin, over rows and masks that nnkernels/cpu/reducing.py has laid out.
#include "../../cpu/reducing.h"

#include <torch/csrc/stable/library.h>

#include "../launching.h"

namespace nnk {
namespace {

// Steps along several dimensions; in double, which holds the size of any memory and overflows in no product.
struct Reach {
  const Requirements& needs;
  double last = 0;

  Reach& along(int64_t size, int64_t stride) {
    needs.that(size > 0 && stride >= 0, "expected a positive size and a stride of 0 or more, got ", size, " and ",
               stride);
    last += (static_cast<double>(size) - 1) * static_cast<double>(stride);
    return *this;
  }

  // That `a` has an element so far from its first.
  void check(const Argument& a) const {
    const Tensor& t = *a.tensor;
    double own = t.numel() ? 0 : -1;
    for (int64_t d = 0; t.numel() && d < t.dim(); ++d) {
      own += (static_cast<double>(t.size(d)) - 1) * static_cast<double>(t.stride(d));
    }
    needs.that(last <= own, a.name, " ends before the layout that was given for it: element ", last, " of ", own + 1);
  }
};

// (outer, n, inner), as which a contiguous tensor is seen.
struct Sizes {
  const Requirements& needs;
  int64_t outer, n, inner;

  // Without a product that could overflow.
  void check(const Argument& a) const {
    const int64_t numel = a.tensor->numel();
    needs.contiguous(a);
    needs.that(
        outer > 0 && n > 0 && inner > 0 && numel % n == 0 && numel / n % inner == 0 && numel / n / inner == outer,
        a.name, " has shape ", Shape(*a.tensor), ", expected ", outer, " x ", n, " x ", inner, " elements");
  }

  void check_rows(const Argument& a, int64_t stride) const {
    Reach{needs}.along(outer, stride).along(n * inner, 1).check(a);
  }

  template <class Body>
  void run(const Body& body) const {
    in_parallel(outer * strips(inner), n * std::min(inner, kStrip), body);
  }
};

// `layout` is sizes, strides, the stride along n and the one along inner. A mask to add is of the type in which `like`
// is computed.
Mask mask_of(const OptionalTensor& mask, const std::vector<int64_t>& layout, const Sizes& sizes, const Tensor& like) {
  if (!mask) return {};
  const Requirements& needs = sizes.needs;
  const bool keeps = mask->scalar_type() == ScalarType::Bool;
  needs.that(layout.size() == 2 * kMaskDigits + 2, "mask_layout has ", layout.size(), " numbers, expected ",
             2 * kMaskDigits + 2);
  needs.dtype({"mask", mask}, keeps ? ScalarType::Bool : computing_type(like));
  Mask found{keeps ? MaskKind::keep : MaskKind::add, mask->data_ptr(), {}, {}, 0, 0};
  Reach reach{needs};
  for (int i = 0; i < kMaskDigits; ++i) {
    found.sizes[i] = layout[i];
    found.strides[i] = layout[kMaskDigits + i];
    reach.along(found.sizes[i], found.strides[i]);
  }
  found.dim_stride = layout[2 * kMaskDigits];
  found.inner_stride = layout[2 * kMaskDigits + 1];
  reach.along(sizes.n, found.dim_stride).along(sizes.inner, found.inner_stride).check({"mask", mask});
  return found;
}

Statistics statistics_of(const OptionalTensor& statistics, const Sizes& sizes) {
  if (!statistics) return {};
  const int64_t rows = sizes.outer * sizes.inner;
  const Argument a{"statistics", statistics};
  sizes.needs.elements(a, 2 * rows);
  sizes.needs.dtype(a, ScalarType::Float);
  sizes.needs.contiguous(a);
  float* data = static_cast<float*>(statistics->mutable_data_ptr());
  return {data, data + rows};
}

void softmax_op(const Tensor& x, Tensor y, OptionalTensor statistics, int64_t outer, int64_t n, int64_t inner,
                int64_t x_stride, bool log, double scale, const OptionalTensor& mask, std::vector<int64_t> mask_layout,
                int64_t queries) {
  const Requirements needs("softmax");
  const Sizes sizes{needs, outer, n, inner};
  needs.floating({"x", x});
  needs.alike({"y", y}, {"x", x});
  needs.in_range("queries", queries, 0, INT64_MAX);
  needs.that(log || !statistics, "statistics are given, but there is no logarithm");
  if (y.numel() == 0) return;
  sizes.check({"y", y});
  sizes.check_rows({"x", x}, x_stride);

  SoftmaxJob job{scalar_of(x), log, scale, n, inner, queries, x.data_ptr(), x_stride, y.mutable_data_ptr(), {}, {}};
  job.mask = mask_of(mask, mask_layout, sizes, x);
  job.statistics = statistics_of(statistics, sizes);
  sizes.run([&](int64_t begin, int64_t end) { softmax(job, begin, end); });
}

void softmax_backward_op(const Tensor& grad, const Tensor& y, Tensor grad_x, int64_t outer, int64_t n, int64_t inner,
                         int64_t grad_stride, bool log, double scale, bool masked, int64_t queries) {
  const Requirements needs("softmax_backward");
  const Sizes sizes{needs, outer, n, inner};
  needs.floating({"y", y});
  needs.alike({{"grad", grad}, {"grad_x", grad_x}}, {"y", y});
  needs.in_range("queries", queries, 0, INT64_MAX);
  if (y.numel() == 0) return;
  sizes.check({"y", y});
  sizes.check({"grad_x", grad_x});
  sizes.check_rows({"grad", grad}, grad_stride);

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
  sizes.run([&](int64_t begin, int64_t end) { softmax_backward(job, begin, end); });
}

void log_softmax_backward_op(const Tensor& grad, const Tensor& x, const Tensor& statistics, Tensor grad_x,
                             int64_t outer, int64_t n, int64_t inner, int64_t grad_stride, int64_t x_stride,
                             double scale, const OptionalTensor& mask, std::vector<int64_t> mask_layout,
                             int64_t queries) {
  const Requirements needs("log_softmax_backward");
  const Sizes sizes{needs, outer, n, inner};
  const ScalarType type = x.scalar_type();
  const bool wide_grad = grad.scalar_type() == ScalarType::Float;
  needs.that(type == ScalarType::BFloat16 || type == ScalarType::Half, "x is ", name_of(type),
             ", expected bfloat16 or float16");
  needs.floating({"x", x});
  needs.alike({"grad_x", grad_x}, {"x", x});
  needs.dtype({"grad", grad}, wide_grad ? ScalarType::Float : type);
  needs.that(grad.sizes().equals(x.sizes()), "grad has shape ", Shape(grad), ", expected ", Shape(x), " as x");
  needs.in_range("queries", queries, 0, INT64_MAX);
  if (x.numel() == 0) return;
  sizes.check({"grad_x", grad_x});
  sizes.check_rows({"grad", grad}, grad_stride);
  sizes.check_rows({"x", x}, x_stride);

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
                                  mask_of(mask, mask_layout, sizes, x),
                                  statistics_of(statistics, sizes)};
  sizes.run([&](int64_t begin, int64_t end) { log_softmax_backward(job, begin, end); });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def(
      "softmax(Tensor x, Tensor(a!) y, Tensor(b!)? statistics, int outer, int n, int inner, int x_stride, bool log, "
      "float scale, Tensor? mask, int[] mask_layout, int queries) -> ()");
  m.def(
      "softmax_backward(Tensor grad, Tensor y, Tensor(a!) grad_x, int outer, int n, int inner, int grad_stride, "
      "bool log, float scale, bool masked, int queries) -> ()");
  m.def(
      "log_softmax_backward(Tensor grad, Tensor x, Tensor statistics, Tensor(a!) grad_x, int outer, int n, int inner, "
      "int grad_stride, int x_stride, float scale, Tensor? mask, int[] mask_layout, int queries) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("softmax", TORCH_BOX(&softmax_op));
  m.impl("softmax_backward", TORCH_BOX(&softmax_backward_op));
  m.impl("log_softmax_backward", TORCH_BOX(&log_softmax_backward_op));
}

}  // namespace nnk
