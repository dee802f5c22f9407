// The random family. The output is given, and dense: its memory's order numbers the elements.
#include "../../cpu/random.h"

#include <torch/csrc/stable/library.h>

#include "../drawing.h"
#include "../launching.h"

namespace nnk {
namespace {

// Inputs come first, then the outputs, one unless said otherwise.
template <size_t N>
void launch_random(const Requirements& needs, RandomJob job, std::array<Tensor, N> operands, size_t outputs = 1) {
  const Geometry geometry = rows_of(needs, operands, outputs);
  const int64_t elements = geometry.rows * geometry.cols;
  if (elements == 0) return;
  job.scalar = scalar_of(operands[N - 1]);
  job.rows = geometry.rows;
  job.cols = geometry.cols;
  for (size_t i = 0; i < N; ++i) job.operands[i] = {operands[i].mutable_data_ptr(), geometry.row_strides[i]};
  constexpr int64_t kCost = 2;  // of an element that draws, beside one that does not
  in_tiles(elements, kRandomTile, kCost, [&](int64_t begin, int64_t end) { random_run(job, begin, end); });
}

// One for each element of a tensor that a kernel reads or writes.
uint8_t* bits_of(const Requirements& needs, const OptionalTensor& packed, const Tensor& like) {
  needs.vector({"packed", packed}, (like.numel() + 7) / 8, ScalarType::Byte);
  return packed ? static_cast<uint8_t*>(packed->mutable_data_ptr()) : nullptr;
}

void rrelu_into(Tensor y, const Tensor& x, const Tensor& seed, double scale, double offset) {
  const Requirements needs("rrelu_into");
  needs.floating({"x", x});
  needs.alike({"y", y}, {"x", x});
  needs.apart_or_same({"y", y}, {"x", x});
  check_seed(needs, {"seed", seed});

  launch_random<2>(needs, {RandomPass::rrelu, Scalar::f32, seed_of(seed), scale, offset, 0, 0, 0, {}}, {x, y});
}

void rrelu_kept_into(Tensor y, Tensor slopes, const Tensor& x, const Tensor& seed, double scale, double offset) {
  const Requirements needs("rrelu_kept_into");
  needs.floating({"x", x});
  needs.alike({"y", y}, {"x", x});
  needs.laid_out_as({"slopes", slopes}, {"y", y});
  needs.apart({{"y", y}, {"slopes", slopes}}, {{"x", x}});
  needs.apart({"slopes", slopes}, {"y", y});
  check_seed(needs, {"seed", seed});

  launch_random<3>(needs, {RandomPass::rrelu_kept, Scalar::f32, seed_of(seed), scale, offset, 0, 0, 0, {}},
                   {x, slopes, y}, 2);
}

void rrelu_backward_into(Tensor grad_x, const Tensor& grad, const Tensor& x, const Tensor& seed, double scale,
                         double offset) {
  const Requirements needs("rrelu_backward_into");
  needs.floating({"x", x});
  needs.alike({{"grad", grad}, {"grad_x", grad_x}}, {"x", x});
  needs.apart_or_same({{"grad_x", grad_x}}, {{"grad", grad}, {"x", x}});
  check_seed(needs, {"seed", seed});

  launch_random<3>(needs, {RandomPass::rrelu_backward, Scalar::f32, seed_of(seed), scale, offset, 0, 0, 0, {}},
                   {grad, x, grad_x});
}

void dropout_into(Tensor y, const Tensor& x, const Tensor& seed, int64_t threshold, double scale,
                  OptionalTensor packed) {
  const Requirements needs("dropout_into");
  needs.floating({"x", x});
  needs.alike({"y", y}, {"x", x});
  needs.apart_or_same({"y", y}, {"x", x});
  check_seed(needs, {"seed", seed});
  check_threshold(needs, threshold);

  uint8_t* bits = bits_of(needs, packed, x);
  const uint32_t least = static_cast<uint32_t>(threshold);
  launch_random<2>(needs, {RandomPass::dropout, Scalar::f32, seed_of(seed), scale, 0, least, 0, 0, {}, bits}, {x, y});
}

void dropout_again_into(Tensor y, const Tensor& x, const Tensor& packed, double scale) {
  const Requirements needs("dropout_again_into");
  needs.floating({"x", x});
  needs.alike({"y", y}, {"x", x});
  needs.apart_or_same({"y", y}, {"x", x});

  uint8_t* bits = bits_of(needs, packed, x);
  launch_random<2>(needs, {RandomPass::dropout_again, Scalar::f32, 0, scale, 0, 1, 0, 0, {}, bits}, {x, y});
}

void bernoulli_into(Tensor y, const Tensor& x, const Tensor& seed) {
  const Requirements needs("bernoulli_into");
  needs.floating({"x", x});
  needs.alike({"y", y}, {"x", x});
  needs.apart_or_same({"y", y}, {"x", x});
  check_seed(needs, {"seed", seed});

  launch_random<2>(needs, {RandomPass::bernoulli, Scalar::f32, seed_of(seed), 0, 0, 0, 0, 0, {}}, {x, y});
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def("rrelu_into(Tensor(a!) y, Tensor x, Tensor seed, float scale, float offset) -> ()");
  m.def("rrelu_kept_into(Tensor(a!) y, Tensor(b!) slopes, Tensor x, Tensor seed, float scale, float offset) -> ()");
  m.def("rrelu_backward_into(Tensor(a!) grad_x, Tensor grad, Tensor x, Tensor seed, float scale, float offset) -> ()");
  m.def("dropout_into(Tensor(a!) y, Tensor x, Tensor seed, int threshold, float scale, Tensor(b!)? packed) -> ()");
  m.def("dropout_again_into(Tensor(a!) y, Tensor x, Tensor packed, float scale) -> ()");
  m.def("bernoulli_into(Tensor(a!) y, Tensor x, Tensor seed) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("rrelu_into", TORCH_BOX(&rrelu_into));
  m.impl("rrelu_kept_into", TORCH_BOX(&rrelu_kept_into));
  m.impl("rrelu_backward_into", TORCH_BOX(&rrelu_backward_into));
  m.impl("dropout_into", TORCH_BOX(&dropout_into));
  m.impl("dropout_again_into", TORCH_BOX(&dropout_again_into));
  m.impl("bernoulli_into", TORCH_BOX(&bernoulli_into));
}

}  // namespace nnk
