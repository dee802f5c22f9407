// The operators of maxout. Tensors are dense, of any strides; only their memory counts, as csrc/cpu/pooling.h sees it.
#pragma once

#include <optional>

#include "../cpu/pooling.h"
#include "ops.h"

namespace nnk {

inline int winner_bits(int64_t pieces) { return pieces <= 2 ? 1 : pieces <= 4 ? 2 : pieces <= 16 ? 4 : 8; }

// `wide` holds the pieces, `narrow` one element for each group.
inline void check_maxout(const Requirements& needs, const Argument& wide, const Argument& narrow,
                         const std::optional<Tensor>& winners, int64_t pieces, int64_t inner) {
  needs.in_range("pieces", pieces, 2, 256);
  needs.floating(wide);
  needs.dtype(narrow, wide.tensor.scalar_type());
  needs.dense(wide);
  needs.dense(narrow);
  const int64_t count = narrow.tensor.numel();
  needs.that(wide.tensor.numel() % pieces == 0 && wide.tensor.numel() / pieces == count, wide.name, " has shape ",
             Shape(wide.tensor), ", expected ", pieces, " elements for each of the ", count, " of ", narrow.name);
  needs.that(count == 0 || (inner > 0 && count % inner == 0), "inner is ", inner, ", expected a divisor of ", count);
  if (!winners) return;
  const int64_t bytes = (count * winner_bits(pieces) + 7) / 8;
  needs.dtype({"winners", *winners}, ScalarType::Byte);
  needs.contiguous({"winners", *winners});
  needs.that(winners->numel() >= bytes, "winners has shape ", Shape(*winners), ", expected at least ", bytes, " bytes");
}

// `forward` reads `wide` and writes `narrow`.
inline void run_maxout(const Tensor& wide, const Tensor& narrow, const std::optional<Tensor>& winners, int64_t pieces,
                       int64_t inner, bool forward) {
  const int64_t count = narrow.numel();
  if (count == 0) return;
  const Tensor &in = forward ? wide : narrow, &out = forward ? narrow : wide;
  MaxoutJob job{scalar_of(wide),        pieces,  inner, winner_bits(pieces), in.mutable_data_ptr(),
                out.mutable_data_ptr(), nullptr, 0};
  if (winners) {
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
  const Requirements needs("maxout");
  check_maxout(needs, {"x", x}, {"y", y}, winners, pieces, inner);
  needs.apart({"y", y}, {"x", x});
  if (winners) {
    needs.apart({"winners", *winners}, {"x", x});
    needs.apart({"winners", *winners}, {"y", y});
  }

  run_maxout(x, y, winners, pieces, inner, true);
}

inline void maxout_backward_op(const Tensor& grad, const Tensor& winners, Tensor grad_x, int64_t pieces,
                               int64_t inner) {
  const Requirements needs("maxout_backward");
  check_maxout(needs, {"grad_x", grad_x}, {"grad", grad}, winners, pieces, inner);
  needs.apart({"grad_x", grad_x}, {"grad", grad});
  needs.apart({"grad_x", grad_x}, {"winners", winners});

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
