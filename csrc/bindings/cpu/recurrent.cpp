// Gated recurrent units: matrices whose columns are adjacent, with three blocks in a row of what the products gave.
#include "../../cpu/recurrent.h"

#include <torch/csrc/stable/library.h>

#include "../launching.h"

namespace nnk {
namespace {

constexpr int64_t kBlocks = 3, kCost = 16;  // a unit costs as much as so many elements of a sum

Operand gru_operand(const Tensor& t) { return {data_of(t), t.size(0) > 1 ? t.stride(0) : 0}; }

void check_gru(const Requirements& needs, const Argument& a, const Tensor& hidden, int64_t blocks) {
  needs.shape(a, {hidden.size(0), blocks * hidden.size(1)});
  needs.dtype(a, hidden.scalar_type());
  needs.that(a.tensor->size(1) < 2 || a.tensor->stride(1) == 1, a.name, " of shape ", Shape(*a.tensor),
             " has columns that are not adjacent");
}

GruJob gru_job(const Requirements& needs, const Tensor& given, const Tensor& recurred, const Tensor& hidden) {
  needs.floating({"hidden", hidden});
  needs.matrix({"hidden", hidden});
  check_gru(needs, {"hidden", hidden}, hidden, 1);
  check_gru(needs, {"given", given}, hidden, kBlocks);
  check_gru(needs, {"recurred", recurred}, hidden, kBlocks);
  GruJob job{};
  job.scalar = scalar_of(hidden), job.width = hidden.size(1);
  job.given = gru_operand(given), job.recurred = gru_operand(recurred), job.hidden = gru_operand(hidden);
  return job;
}

template <class Kernel>
void run_gru(const GruJob& job, int64_t rows, Kernel kernel) {
  if (rows == 0 || job.width == 0) return;
  in_parallel(rows, kCost * job.width, [&](int64_t begin, int64_t end) { kernel(job, begin, end); });
}

void gru_gates_op(const Tensor& given, const Tensor& recurred, const Tensor& hidden, Tensor next) {
  const Requirements needs("gru_gates");
  GruJob job = gru_job(needs, given, recurred, hidden);
  needs.numbers({"next", next}, {hidden.size(0), hidden.size(1)}, hidden.scalar_type());
  needs.apart({{"next", next}}, {{"given", given}, {"recurred", recurred}, {"hidden", hidden}});
  job.next = gru_operand(next);
  run_gru(job, hidden.size(0), gru_gates);
}

void gru_gates_backward_op(const Tensor& grad, const Tensor& given, const Tensor& recurred, const Tensor& hidden,
                           Tensor grad_given, Tensor grad_recurred, Tensor grad_hidden) {
  const Requirements needs("gru_gates_backward");
  GruJob job = gru_job(needs, given, recurred, hidden);
  check_gru(needs, {"grad", grad}, hidden, 1);
  const int64_t rows = hidden.size(0), width = hidden.size(1);
  needs.numbers({"grad_given", grad_given}, {rows, kBlocks * width}, hidden.scalar_type());
  needs.numbers({"grad_recurred", grad_recurred}, {rows, kBlocks * width}, hidden.scalar_type());
  needs.numbers({"grad_hidden", grad_hidden}, {rows, width}, hidden.scalar_type());
  needs.apart({{"grad_given", grad_given}, {"grad_recurred", grad_recurred}, {"grad_hidden", grad_hidden}},
              {{"grad", grad}, {"given", given}, {"recurred", recurred}, {"hidden", hidden}});
  job.grad = gru_operand(grad), job.for_hidden = gru_operand(grad_hidden);
  job.for_given = gru_operand(grad_given), job.for_recurred = gru_operand(grad_recurred);
  run_gru(job, rows, gru_gates_backward);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def("gru_gates(Tensor given, Tensor recurred, Tensor hidden, Tensor(a!) next) -> ()");
  m.def(
      "gru_gates_backward(Tensor grad, Tensor given, Tensor recurred, Tensor hidden, Tensor(a!) grad_given, "
      "Tensor(b!) grad_recurred, Tensor(c!) grad_hidden) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("gru_gates", TORCH_BOX(&gru_gates_op));
  m.impl("gru_gates_backward", TORCH_BOX(&gru_gates_backward_op));
}

}  // namespace nnk
