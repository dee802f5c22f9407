// Derivatives kept in a few bits, over adjacent elements of one dimension.
#include "../../cpu/saving.h"

#include <torch/csrc/stable/library.h>

#include "../../cpu/learned.h"
#include "../drawing.h"
#include "../launching.h"

namespace nnk {
namespace {

template <class Job>
void run_quantised(void (*kernel)(const Job&, int64_t, int64_t), const Job& job, int64_t count) {
  in_tiles(count, kQuantisedTile, 1, [&](int64_t begin, int64_t end) { kernel(job, begin, end); });
}

// A vector of adjacent elements, and one like it that is written, which may be the same.
void check_adjacent(const Requirements& needs, const Argument& in, const Argument& out) {
  needs.floating(in);
  needs.shape(in, {in.tensor->numel()});
  needs.contiguous(in);
  needs.alike(out, in);
  needs.contiguous(out);
  needs.apart_or_same(out, in);
}

int64_t packed_bytes(const Tensor& t, int64_t bits) { return (t.numel() * bits + 7) / 8; }

void check_packed(const Requirements& needs, const Tensor& packed, const Tensor& in, int64_t bits) {
  needs.vector({"packed", packed}, packed_bytes(in, bits), ScalarType::Byte);
}

void check_bits(const Requirements& needs, int64_t bits) {
  needs.that(bits == 1 || bits == 4 || bits == 8, "bits is ", bits, ", expected 1, 4 or 8");
}

Tensor quantised_forward_op(const Tensor& x, Tensor y, int64_t activation, double a, double b, int64_t bits, double low,
                            double high) {
  const Requirements needs("quantised_forward");
  needs.activation(activation);
  check_adjacent(needs, {"x", x}, {"y", y});
  check_bits(needs, bits);

  Tensor packed = allocate(x, {packed_bytes(x, bits)}, ScalarType::Byte);
  const QuantisedJob job{static_cast<int>(activation),
                         scalar_of(x),
                         a,
                         b,
                         static_cast<int>(bits),
                         low,
                         high,
                         false,
                         x.mutable_data_ptr(),
                         y.mutable_data_ptr(),
                         static_cast<uint8_t*>(packed.mutable_data_ptr())};
  run_quantised(quantised_forward, job, x.numel());
  return packed;
}

Tensor quantised_backward_op(const Tensor& grad, const Tensor& packed, int64_t bits, double low, double high,
                             bool masks) {
  const Requirements needs("quantised_backward");
  check_bits(needs, bits);
  check_adjacent(needs, {"grad", grad}, {"grad", grad});
  check_packed(needs, packed, grad, bits);

  Tensor grad_input = allocate_like(grad);
  const QuantisedJob job{0,
                         scalar_of(grad),
                         0,
                         0,
                         static_cast<int>(bits),
                         low,
                         high,
                         masks,
                         grad.mutable_data_ptr(),
                         grad_input.mutable_data_ptr(),
                         static_cast<uint8_t*>(packed.mutable_data_ptr())};
  run_quantised(quantised_backward, job, grad.numel());
  return grad_input;
}

// Writes `out` and, forward, the returned bits; `packed` is what forward returned.
Tensor run_signs(SignsJob job, const Tensor& in, Tensor out, Tensor packed, bool forward) {
  job.scalar = scalar_of(in);
  job.in = in.mutable_data_ptr(), job.out = out.mutable_data_ptr();
  job.packed = static_cast<uint8_t*>(packed.mutable_data_ptr());
  run_quantised(forward ? signs_forward : signs_backward, job, in.numel());
  return forward ? packed : out;
}

Tensor empty_bits(const Tensor& x) { return allocate(x, {packed_bytes(x, 1)}, ScalarType::Byte); }

void check_weight(const Requirements& needs, const Tensor& weight, int64_t inner) {
  needs.floating({"weight", weight});
  needs.contiguous({"weight", weight});
  needs.that(weight.numel() > 0, "weight has shape ", Shape(weight), ", expected a number for each channel");
  needs.that(inner > 0, "inner is ", inner, ", expected how many elements of a channel lie side by side");
}

Tensor prelu_signs(const Tensor& in, Tensor out, Tensor packed, const Tensor& weight, int64_t inner, bool forward) {
  const int64_t channels = weight.numel();
  const auto table = learned_table({numbers_of(weight)}, {}, 1, {1, channels}, channels, scalar_of(in));
  SignsJob job{};
  job.weights = table.get(), job.channels = channels, job.inner = inner;
  return run_signs(job, in, out, packed, forward);
}

Tensor prelu_signs_op(const Tensor& x, Tensor y, const Tensor& weight, int64_t inner) {
  const Requirements needs("prelu_signs");
  check_adjacent(needs, {"x", x}, {"y", y});
  check_weight(needs, weight, inner);

  return prelu_signs(x, y, empty_bits(x), weight, inner, true);
}

Tensor prelu_from_signs_op(const Tensor& grad, const Tensor& packed, const Tensor& weight, int64_t inner) {
  const Requirements needs("prelu_from_signs");
  check_adjacent(needs, {"grad", grad}, {"grad", grad});
  check_packed(needs, packed, grad, 1);
  check_weight(needs, weight, inner);

  return prelu_signs(grad, allocate_like(grad), packed, weight, inner, false);
}

Tensor rrelu_signs(const Tensor& in, Tensor out, Tensor packed, const Tensor& seed, double scale, double offset,
                   bool forward) {
  SignsJob job{};
  job.draws = true, job.seed = seed_of(seed), job.scale = scale, job.offset = offset;
  return run_signs(job, in, out, packed, forward);
}

Tensor rrelu_signs_op(const Tensor& x, Tensor y, const Tensor& seed, double scale, double offset) {
  const Requirements needs("rrelu_signs");
  check_adjacent(needs, {"x", x}, {"y", y});
  check_seed(needs, {"seed", seed});

  return rrelu_signs(x, y, empty_bits(x), seed, scale, offset, true);
}

Tensor rrelu_from_signs_op(const Tensor& grad, const Tensor& packed, const Tensor& seed, double scale, double offset) {
  const Requirements needs("rrelu_from_signs");
  check_adjacent(needs, {"grad", grad}, {"grad", grad});
  check_packed(needs, packed, grad, 1);
  check_seed(needs, {"seed", seed});

  return rrelu_signs(grad, allocate_like(grad), packed, seed, scale, offset, false);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def("prelu_signs(Tensor x, Tensor(a!) y, Tensor weight, int inner) -> Tensor");
  m.def("prelu_from_signs(Tensor grad, Tensor packed, Tensor weight, int inner) -> Tensor");
  m.def("rrelu_signs(Tensor x, Tensor(a!) y, Tensor seed, float scale, float offset) -> Tensor");
  m.def("rrelu_from_signs(Tensor grad, Tensor packed, Tensor seed, float scale, float offset) -> Tensor");
  m.def(
      "quantised_forward(Tensor x, Tensor(a!) y, int activation, float a, float b, int bits, float low, float high) -> "
      "Tensor");
  m.def("quantised_backward(Tensor grad, Tensor packed, int bits, float low, float high, bool masks) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("quantised_forward", TORCH_BOX(&quantised_forward_op));
  m.impl("quantised_backward", TORCH_BOX(&quantised_backward_op));
  m.impl("prelu_signs", TORCH_BOX(&prelu_signs_op));
  m.impl("prelu_from_signs", TORCH_BOX(&prelu_from_signs_op));
  m.impl("rrelu_signs", TORCH_BOX(&rrelu_signs_op));
  m.impl("rrelu_from_signs", TORCH_BOX(&rrelu_from_signs_op));
}

}  // namespace nnk
