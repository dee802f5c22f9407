// The operators of maxout. Tensors are dense, of any strides; only their memory counts, as csrc/cpu/pooling.h sees it.
#pragma once

#include <optional>

#include "../cpu/pooling.h"
#include "ops.h"

namespace nnk {

// `wide` holds the pieces, `narrow` one element for each group; `forward` reads the former and writes the latter.
inline void run_maxout(const Tensor& wide, const Tensor& narrow, const std::optional<Tensor>& winners, int64_t pieces,
                       int64_t inner, bool forward) {
  STD_TORCH_CHECK(pieces >= 2 && pieces <= 256, "nnkernels: maxout takes 2 to 256 pieces, got ", pieces);
  const int64_t count = narrow.numel();
  STD_TORCH_CHECK(wide.numel() == count * pieces && inner >= 0 && (count == 0 || (inner > 0 && count % inner == 0)),
                  "nnkernels: ", wide.numel(), " and ", count, " elements are not ", pieces, " pieces of ", inner);
  STD_TORCH_CHECK(wide.scalar_type() == narrow.scalar_type(), "nnkernels: expected tensors of one dtype");
  if (count == 0) return;
  const int width = pieces <= 2 ? 1 : pieces <= 4 ? 2 : pieces <= 16 ? 4 : 8;
  const Tensor &in = forward ? wide : narrow, &out = forward ? narrow : wide;
  MaxoutJob job{scalar_of(wide), pieces, inner, width, in.mutable_data_ptr(), out.mutable_data_ptr(), nullptr, 0};
  if (winners) {
    STD_TORCH_CHECK(winners->scalar_type() == torch::headeronly::ScalarType::Byte && winners->is_contiguous() &&
                        winners->numel() * 8 >= count * width,
                    "nnkernels: expected ", (count * width + 7) / 8, " bytes of packed winners");
    job.winners = static_cast<uint8_t*>(winners->mutable_data_ptr());
    job.winners_size = winners->numel();
  }
  constexpr int64_t kGrain = 32768;  // elements of the wide tensor for each thread, as ATen's elementwise loops take
  const int64_t tiles = (count + kMaxoutTile - 1) / kMaxoutTile;
  const int64_t grain = kGrain / (kMaxoutTile * pieces);
  torch::stable::parallel_for(0, tiles, grain > 0 ? grain : 1, [&](int64_t begin, int64_t end) {
    const int64_t stop = end * kMaxoutTile < count ? end * kMaxoutTile : count;
    (forward ? maxout : maxout_backward)(job, begin * kMaxoutTile, stop);
  });
}

inline void maxout_op(const Tensor& x, Tensor y, std::optional<Tensor> winners, int64_t pieces, int64_t inner) {
  run_maxout(x, y, winners, pieces, inner, true);
}

inline void maxout_backward_op(const Tensor& grad, const Tensor& winners, Tensor grad_x, int64_t pieces,
                               int64_t inner) {
  run_maxout(grad_x, grad, winners, pieces, inner, false);
}

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def("maxout(Tensor x, Tensor(a!) y, Tensor(b!)? winners, int pieces, int inner) -> ()");
  m.def("maxout_backward(Tensor grad, Tensor winners, Tensor(a!) grad_x, int pieces, int inner) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("maxout", TORCH_BOX(&maxout_op));
  m.impl("maxout_backward", TORCH_BOX(&maxout_backward_op));
}

}  // namespace nnk
