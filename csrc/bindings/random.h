// The operators of the random family. The output is given, and dense: its memory's order numbers the elements.
#pragma once

#include "../cpu/random.h"
#include "ops.h"

namespace nnk {

inline void check_seed(const Requirements& needs, const Tensor& seed) {
  needs.elements({"seed", seed}, 1);
  needs.dtype({"seed", seed}, ScalarType::Long);
}

inline uint64_t seed_of(const Tensor& seed) {
  return static_cast<uint64_t>(*static_cast<const int64_t*>(seed.const_data_ptr()));
}

inline void check_threshold(const Requirements& needs, int64_t threshold) {
  needs.in_range("threshold", threshold, 0, UINT32_MAX);
}

// Inputs come first, the output last; an input that does not lie as the output does is copied until it does.
template <size_t N>
void launch_random(const Requirements& needs, RandomJob job, const Tensor& seed, std::array<Tensor, N> operands) {
  const Tensor& y = operands[N - 1];
  Geometry geometry;
  if (!fits(operands, &geometry)) {
    for (size_t i = 0; i + 1 < N; ++i) {
      Tensor copy = allocate_like(y);
      torch::stable::copy_(copy, operands[i]);
      operands[i] = copy;
    }
    needs.that(fits(operands, &geometry), "the output is not dense");
  }
  const int64_t elements = geometry.rows * geometry.cols;
  if (elements == 0) return;
  job.scalar = scalar_of(y);
  job.seed = seed_of(seed);
  job.rows = geometry.rows;
  job.cols = geometry.cols;
  for (size_t i = 0; i < N; ++i) job.operands[i] = {operands[i].mutable_data_ptr(), geometry.row_strides[i]};
  constexpr int64_t kGrain = 16384;
  if (elements <= kGrain) return random_run(job, 0, elements);
  torch::stable::parallel_for(0, elements, kGrain, [&](int64_t begin, int64_t end) { random_run(job, begin, end); });
}

inline void rrelu_into(Tensor y, const Tensor& x, const Tensor& seed, double scale, double offset) {
  const Requirements needs("rrelu_into");
  needs.floating({"x", x});
  needs.alike({"y", y}, {"x", x});
  needs.apart_or_same({"y", y}, {"x", x});
  check_seed(needs, seed);

  launch_random<2>(needs, {RandomPass::rrelu, Scalar::f32, 0, scale, offset, 0, 0, 0, {}}, seed, {x, y});
}

inline void rrelu_backward_into(Tensor grad_x, const Tensor& grad, const Tensor& x, const Tensor& seed, double scale,
                                double offset) {
  const Requirements needs("rrelu_backward_into");
  needs.floating({"x", x});
  for (const Argument& a : {Argument{"grad", grad}, Argument{"grad_x", grad_x}}) needs.alike(a, {"x", x});
  for (const Argument& a : {Argument{"grad", grad}, Argument{"x", x}}) needs.apart_or_same({"grad_x", grad_x}, a);
  check_seed(needs, seed);

  launch_random<3>(needs, {RandomPass::rrelu_backward, Scalar::f32, 0, scale, offset, 0, 0, 0, {}}, seed,
                   {grad, x, grad_x});
}

inline void dropout_into(Tensor y, const Tensor& x, const Tensor& seed, int64_t threshold, double scale) {
  const Requirements needs("dropout_into");
  needs.floating({"x", x});
  needs.alike({"y", y}, {"x", x});
  needs.apart_or_same({"y", y}, {"x", x});
  check_seed(needs, seed);
  check_threshold(needs, threshold);

  const uint32_t least = static_cast<uint32_t>(threshold);
  launch_random<2>(needs, {RandomPass::dropout, Scalar::f32, 0, scale, 0, least, 0, 0, {}}, seed, {x, y});
}

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def("rrelu_into(Tensor(a!) y, Tensor x, Tensor seed, float scale, float offset) -> ()");
  m.def("rrelu_backward_into(Tensor(a!) grad_x, Tensor grad, Tensor x, Tensor seed, float scale, float offset) -> ()");
  m.def("dropout_into(Tensor(a!) y, Tensor x, Tensor seed, int threshold, float scale) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("rrelu_into", TORCH_BOX(&rrelu_into));
  m.impl("rrelu_backward_into", TORCH_BOX(&rrelu_backward_into));
  m.impl("dropout_into", TORCH_BOX(&dropout_into));
}

}  // namespace nnk
