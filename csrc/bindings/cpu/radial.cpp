// Radial basis functions of contiguous matrices; gamma is a vector, one number, or left out for a constant.
#include "../../cpu/radial.h"

#include <torch/csrc/stable/library.h>

#include <memory>

#include "../launching.h"

namespace nnk {
namespace {

void check_centers(const Requirements& needs, const Tensor& x, const Tensor& centers, const OptionalTensor& gamma) {
  needs.floating({"x", x});
  needs.matrix({"x", x});
  needs.contiguous({"x", x});
  needs.matrix({"centers", centers});
  needs.numbers({"centers", centers}, {centers.size(0), x.size(1)}, x.scalar_type());
  if (gamma) needs.vector({"gamma", gamma}, gamma->numel() == 1 ? 1 : centers.size(0), x.scalar_type());
}

RadialJob radial_job(const Tensor& x, const Tensor& centers, const OptionalTensor& gamma, double constant) {
  RadialJob job{};
  job.scalar = scalar_of(x);
  job.rows = x.size(0), job.features = x.size(1), job.centers = centers.size(0);
  job.x = data_of(x), job.positions = data_of(centers), job.gamma = data_of(gamma);
  job.gamma_step = gamma && gamma->numel() != 1, job.constant = constant;
  return job;
}

void gaussians_op(Tensor y, const Tensor& x, const Tensor& centers, OptionalTensor gamma, double constant) {
  const Requirements needs("gaussians");
  check_centers(needs, x, centers, gamma);
  needs.numbers({"y", y}, {x.size(0), centers.size(0)}, x.scalar_type());
  needs.apart({{"y", y}}, {{"x", x}, {"centers", centers}, {"gamma", gamma}});

  RadialJob job = radial_job(x, centers, gamma, constant);
  job.y = data_of(y);
  if (!job.y) return;
  in_parallel(job.rows, job.centers * (job.features + 4),
              [&](int64_t begin, int64_t end) { gaussians(job, begin, end); });
}

// A part has so many rows at least, unless there are fewer, and there are so many parts at most.
int64_t parts_of(int64_t rows) {
  constexpr int64_t kRows = 128, kParts = 32;
  return std::max<int64_t>(1, std::min(kParts, rows / kRows));
}

void gaussians_backward_op(const Tensor& grad, const Tensor& x, const Tensor& centers, OptionalTensor gamma,
                           double constant, OptionalTensor grad_x, OptionalTensor grad_centers,
                           OptionalTensor grad_gamma) {
  const Requirements needs("gaussians_backward");
  check_centers(needs, x, centers, gamma);
  const ScalarType type = x.scalar_type();
  needs.numbers({"grad", grad}, {x.size(0), centers.size(0)}, type);
  needs.numbers({"grad_x", grad_x}, {x.size(0), x.size(1)}, type);
  needs.numbers({"grad_centers", grad_centers}, {centers.size(0), x.size(1)}, type);
  needs.that(!grad_gamma || gamma, "grad_gamma is wanted of a gamma that is not given");
  if (grad_gamma) needs.vector({"grad_gamma", grad_gamma}, gamma->numel(), type);
  needs.apart({{"grad_x", grad_x}, {"grad_centers", grad_centers}, {"grad_gamma", grad_gamma}},
              {{"grad", grad}, {"x", x}, {"centers", centers}, {"gamma", gamma}});

  RadialJob job = radial_job(x, centers, gamma, constant);
  job.parts = parts_of(job.rows);
  job.grad = data_of(grad);
  job.grad_x = data_of(grad_x), job.grad_positions = data_of(grad_centers), job.grad_gamma = data_of(grad_gamma);
  const int64_t vectors = job.grad_positions ? job.centers * job.features : 0;
  const int64_t bytes = job.parts * size_of_computing(job.scalar);
  const std::unique_ptr<char[]> sums(new char[bytes * (vectors + job.centers)]);
  job.part_positions = sums.get(), job.part_gamma = sums.get() + bytes * vectors;
  in_parallel(job.parts, job.rows / job.parts * (job.centers * job.features + 1) + 1,
              [&](int64_t begin, int64_t end) { gaussians_backward(job, begin, end); });
  gaussians_total(job);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def("gaussians(Tensor(a!) y, Tensor x, Tensor centers, Tensor? gamma, float constant) -> ()");
  m.def(
      "gaussians_backward(Tensor grad, Tensor x, Tensor centers, Tensor? gamma, float constant, Tensor(a!)? grad_x, "
      "Tensor(b!)? grad_centers, Tensor(c!)? grad_gamma) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("gaussians", TORCH_BOX(&gaussians_op));
  m.impl("gaussians_backward", TORCH_BOX(&gaussians_backward_op));
}

}  // namespace nnk
