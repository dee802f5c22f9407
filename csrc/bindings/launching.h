// How a family's operators bring their tensors to the form that a kernel sees, and share its work among threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>

#include "../geometry.h"
#include "checks.h"

namespace nnk {

// body(begin, end) for parts of `items` items, each of `elements` elements: as many elements for each thread as ATen
// gives its own elementwise loops.
template <class Body>
void in_parallel(int64_t items, int64_t elements, const Body& body) {
  constexpr int64_t kGrain = 32768;
  const int64_t grain = std::max<int64_t>(1, kGrain / elements);
  if (items <= grain) {
    body(0, items);
  } else {
    torch::stable::parallel_for(0, items, grain, body);
  }
}

// The same, where every part but the last has to be of whole tiles of `tile` items.
template <class Body>
void in_tiles(int64_t items, int64_t tile, int64_t elements, const Body& body) {
  in_parallel((items + tile - 1) / tile, tile * elements,
              [&](int64_t begin, int64_t end) { body(begin * tile, std::min(end * tile, items)); });
}

template <size_t N>
std::array<const int64_t*, N> strides_of(const std::array<Tensor, N>& operands) {
  std::array<const int64_t*, N> strides;
  for (size_t i = 0; i < N; ++i) strides[i] = operands[i].strides().data();
  return strides;
}

// Inputs come first, then `outputs` outputs. `fits(dims, sizes, strides, N)` says whether they lie as a kernel wants
// them; until it does, inputs are copied to lie as the last output does.
template <size_t N, class Fits>
void line_up(const Requirements& needs, std::array<Tensor, N>& operands, size_t outputs, Fits fits) {
  const Tensor& y = operands[N - 1];
  const auto sizes = y.sizes();
  for (size_t i = 0; !fits(static_cast<int>(sizes.size()), sizes.data(), strides_of(operands).data(), int{N}); ++i) {
    needs.that(i < N - outputs, "an output is neither dense nor made of dense rows");
    Tensor copy = allocate_like(y);
    torch::stable::copy_(copy, operands[i]);
    operands[i] = copy;
  }
}

// The same for kernels that see rows of adjacent elements.
template <size_t N>
Geometry rows_of(const Requirements& needs, std::array<Tensor, N>& operands, size_t outputs) {
  Geometry geometry;
  line_up(needs, operands, outputs,
          [&](auto dims, auto sizes, auto strides, auto n) { return plan(dims, sizes, strides, n, &geometry); });
  return geometry;
}

}  // namespace nnk
