// The operators that keep derivatives in a few bits, over adjacent elements of one dimension.
#pragma once

#include "../cpu/saving.h"
#include "ops.h"

namespace nnk {

inline void run_quantised(void (*kernel)(const QuantisedJob&, int64_t, int64_t), const QuantisedJob& job,
                          int64_t count) {
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

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def(
      "quantised_forward(Tensor x, Tensor(a!) y, int activation, float a, float b, int bits, float low, float high) -> "
      "Tensor");
  m.def("quantised_backward(Tensor grad, Tensor packed, int bits, float low, float high, bool masks) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("quantised_forward", TORCH_BOX(&quantised_forward_op));
  m.impl("quantised_backward", TORCH_BOX(&quantised_backward_op));
}

}  // namespace nnk
