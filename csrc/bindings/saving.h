// The operators that keep derivatives in a few bits, over adjacent elements of one dimension.
#pragma once

#include <vector>

#include "../cpu/saving.h"
#include "learned.h"
#include "ops.h"
#include "random.h"

namespace nnk {

template <class Job>
void run_quantised(void (*kernel)(const Job&, int64_t, int64_t), const Job& job, int64_t count) {
  constexpr int64_t kTilesPerThread = 32768 / kQuantisedTile;
  const int64_t tiles = (count + kQuantisedTile - 1) / kQuantisedTile;
  torch::stable::parallel_for(0, tiles, kTilesPerThread, [&](int64_t begin, int64_t end) {
    const int64_t stop = end * kQuantisedTile < count ? end * kQuantisedTile : count;
    kernel(job, begin * kQuantisedTile, stop);
  });
}

inline void check_adjacent(const Tensor& t, int64_t count) {
  STD_TORCH_CHECK(t.dim() == 1 && t.is_contiguous() && t.numel() == count, "nnkernels: expected ", count,
                  " adjacent elements");
}

inline void check_bits(int64_t bits) {
  STD_TORCH_CHECK(bits == 1 || bits == 4 || bits == 8, "nnkernels: expected 1, 4 or 8 bits, got ", bits);
}

inline Tensor quantised_forward_op(const Tensor& x, Tensor y, int64_t activation, double a, double b, int64_t bits,
                                   double low, double high) {
  STD_TORCH_CHECK(activation >= 0 && activation < count_activations(), "nnkernels: no activation has index ",
                  activation);
  check_alike(y, x);
  check_adjacent(x, x.numel());
  check_adjacent(y, x.numel());
  check_bits(bits);
  const int64_t bytes = (x.numel() * bits + 7) / 8;
  Tensor packed = torch::stable::new_empty(x, {bytes}, torch::headeronly::ScalarType::Byte);
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

inline Tensor quantised_backward_op(const Tensor& grad, const Tensor& packed, int64_t bits, double low, double high,
                                    bool masks) {
  check_bits(bits);
  check_adjacent(grad, grad.numel());
  STD_TORCH_CHECK(packed.scalar_type() == torch::headeronly::ScalarType::Byte, "nnkernels: expected packed bytes");
  check_adjacent(packed, (grad.numel() * bits + 7) / 8);
  Tensor grad_input = torch::stable::empty_like(grad);
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
inline Tensor run_signs(SignsJob job, const Tensor& in, Tensor out, Tensor packed, bool forward) {
  check_alike(out, in);
  check_adjacent(in, in.numel());
  check_adjacent(out, in.numel());
  STD_TORCH_CHECK(packed.scalar_type() == torch::headeronly::ScalarType::Byte, "nnkernels: expected packed bytes");
  check_adjacent(packed, (in.numel() + 7) / 8);
  job.scalar = scalar_of(in);
  job.in = in.mutable_data_ptr(), job.out = out.mutable_data_ptr();
  job.packed = static_cast<uint8_t*>(packed.mutable_data_ptr());
  run_quantised(forward ? signs_forward : signs_backward, job, in.numel());
  return forward ? packed : out;
}

inline Tensor empty_bits(const Tensor& x) {
  return torch::stable::new_empty(x, {(x.numel() + 7) / 8}, torch::headeronly::ScalarType::Byte);
}

inline Tensor prelu_signs(const Tensor& in, Tensor out, Tensor packed, const Tensor& weight, int64_t inner,
                          bool forward) {
  STD_TORCH_CHECK(weight.is_cpu() && weight.is_contiguous() && weight.numel() > 0 && inner > 0,
                  "nnkernels: expected a contiguous weight and elements of each channel");
  const auto run = [&](auto zero) {
    const int64_t channels = weight.numel();
    const std::vector<decltype(zero)> table = learned::table_of<decltype(zero)>({weight}, {1, channels}, channels);
    SignsJob job{};
    job.weights = table.data(), job.channels = channels, job.inner = inner;
    return run_signs(job, in, out, packed, forward);
  };
  return scalar_of(in) == Scalar::f64 ? run(0.0) : run(0.0f);
}

inline Tensor prelu_signs_op(const Tensor& x, Tensor y, const Tensor& weight, int64_t inner) {
  return prelu_signs(x, y, empty_bits(x), weight, inner, true);
}

inline Tensor prelu_from_signs_op(const Tensor& grad, const Tensor& packed, const Tensor& weight, int64_t inner) {
  return prelu_signs(grad, torch::stable::empty_like(grad), packed, weight, inner, false);
}

inline Tensor rrelu_signs(const Tensor& in, Tensor out, Tensor packed, const Tensor& seed, double scale, double offset,
                          bool forward) {
  SignsJob job{};
  job.draws = true, job.seed = seed_of(seed), job.scale = scale, job.offset = offset;
  return run_signs(job, in, out, packed, forward);
}

inline Tensor rrelu_signs_op(const Tensor& x, Tensor y, const Tensor& seed, double scale, double offset) {
  return rrelu_signs(x, y, empty_bits(x), seed, scale, offset, true);
}

inline Tensor rrelu_from_signs_op(const Tensor& grad, const Tensor& packed, const Tensor& seed, double scale,
                                  double offset) {
  return rrelu_signs(grad, torch::stable::empty_like(grad), packed, seed, scale, offset, false);
}

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
