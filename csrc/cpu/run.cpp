// Cuts a job into runs of adjacent elements, and 16-bit runs into tiles of floats that stay in the first-level cache.
#include "convert.h"
#include "loops.h"

namespace nnk::NNK_ISA {
namespace {

constexpr int64_t kTile = 512;

struct Shape {
  int inputs, operands;
};

Shape shape_of(Pass pass) {
  switch (pass) {
    case Pass::forward: return {1, 2};
    case Pass::backward: return {2, 3};
    case Pass::double_backward: break;
  }
  return {3, 5};
}

Loop loop_for(const Job& job, Arithmetic arithmetic) {
  switch (job.pass) {
    case Pass::forward: return forward_loop(job.activation, arithmetic);
    case Pass::backward: return backward_loop(job.activation, arithmetic);
    case Pass::double_backward: break;
  }
  return double_backward_loop(job.activation, arithmetic);
}

Loop stored_loop_for(const Job& job) {
  switch (job.pass) {
    case Pass::forward: return forward_loop(job.activation, job.scalar);
    case Pass::backward: return backward_loop(job.activation, job.scalar);
    case Pass::double_backward: break;
  }
  return nullptr;
}

template <class Narrow>
void run_narrow(const Job& job, void* const* data, int64_t count) {
  if (const Loop loop = stored_loop_for(job)) return loop(job.a, job.b, data, count);
  const Loop loop = loop_for(job, kFast);
  alignas(64) float tiles[kMaxOperands][kTile];
  void* pointers[kMaxOperands];
  const Shape shape = shape_of(job.pass);
  for (int o = 0; o < shape.operands; ++o) pointers[o] = tiles[o];
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int64_t size = count - begin < kTile ? count - begin : kTile;
    for (int o = 0; o < shape.inputs; ++o) widen_any_order(static_cast<const Narrow*>(data[o]) + begin, tiles[o], size);
    loop(job.a, job.b, pointers, size);
    for (int o = shape.inputs; o < shape.operands; ++o)
      narrow_any_order(tiles[o], static_cast<Narrow*>(data[o]) + begin, size);
  }
}

void run_adjacent(const Job& job, void* const* data, int64_t count) {
  switch (job.scalar) {
    case Scalar::f64: return loop_for(job, kDouble)(job.a, job.b, data, count);
    case Scalar::f32: return loop_for(job, kSingle)(job.a, job.b, data, count);
    case Scalar::bf16: return run_narrow<BFloat16>(job, data, count);
    case Scalar::f16: return run_narrow<Half>(job, data, count);
  }
}

}  // namespace

void run(const Job& job, int64_t begin, int64_t end) {
  const int64_t size = job.scalar == Scalar::f64 ? 8 : job.scalar == Scalar::f32 ? 4 : 2;
  const int operands = shape_of(job.pass).operands;
  bool flat = true;
  for (int o = 0; o < operands; ++o) flat &= job.operands[o].row_stride == job.cols;
  const int64_t cols = flat ? job.rows * job.cols : job.cols;
  while (begin < end) {
    const int64_t row = begin / cols, col = begin % cols;
    const int64_t count = end - begin < cols - col ? end - begin : cols - col;
    void* data[kMaxOperands];
    for (int o = 0; o < operands; ++o) {
      data[o] = static_cast<char*>(job.operands[o].data) + (row * job.operands[o].row_stride + col) * size;
    }
    run_adjacent(job, data, count);
    begin += count;
  }
}

}  // namespace nnk::NNK_ISA
