// Capsules: vectors side by side or number by number, and votes (batch, below, above, size) of any strides.
#include "../../cpu/capsules.h"

#include <torch/csrc/stable/library.h>

#include "../launching.h"

namespace nnk {
namespace {

// Of contiguous tensors whose `size` numbers lie `inner` apart.
SquashJob squash_job(const Requirements& needs, const Argument& x, const Argument& out, int64_t size, int64_t inner) {
  needs.floating(x);
  needs.contiguous(x);
  needs.alike(out, x);
  needs.contiguous(out);
  needs.apart({out}, {x});
  needs.that(size > 0 && inner > 0 && x.tensor->numel() % (size * inner) == 0, "x of shape ", Shape(*x.tensor),
             " is not made of vectors of size ", size, ", ", inner, " apart");
  return {scalar_of(*x.tensor), size, inner, x.tensor->const_data_ptr(), nullptr, out.tensor->mutable_data_ptr()};
}

template <class Kernel>
void run_squash(const SquashJob& job, int64_t elements, Kernel kernel) {
  in_parallel(elements / job.size, job.size, [&](int64_t begin, int64_t end) { kernel(job, begin, end); });
}

void squash_op(const Tensor& x, Tensor y, int64_t size, int64_t inner) {
  const Requirements needs("squash");
  run_squash(squash_job(needs, {"x", x}, {"y", y}, size, inner), x.numel(), squash);
}

void squash_backward_op(const Tensor& grad, const Tensor& x, Tensor grad_x, int64_t size, int64_t inner) {
  const Requirements needs("squash_backward");
  SquashJob job = squash_job(needs, {"x", x}, {"grad_x", grad_x}, size, inner);
  needs.alike({"grad", grad}, {"x", x});
  needs.contiguous({"grad", grad});
  needs.apart({{"grad_x", grad_x}}, {{"grad", grad}});
  job.grad = grad.const_data_ptr();
  run_squash(job, x.numel(), squash_backward);
}

CapsuleOperand capsule_operand(const Tensor& t) {
  const auto strides = t.strides();
  if (t.dim() == 3) return {t.mutable_data_ptr(), strides[0], 0, strides[1], strides[2]};
  return {t.mutable_data_ptr(), strides[0], strides[1], strides[2], strides[3]};
}

// `votes` or their gradient, and `capsules` or theirs.
RouteJob route_job(const Requirements& needs, const Argument& votes, const Argument& capsules,
                   const OptionalTensor& shares, const OptionalTensor& sums) {
  const Tensor& of = *votes.tensor;
  needs.floating(votes);
  needs.that(of.dim() == 4, votes.name, " has shape ", Shape(of), ", expected batch x below x above x size");
  const int64_t batch = of.size(0), below = of.size(1), above = of.size(2), size = of.size(3);
  needs.shape(capsules, {batch, above, size});
  needs.dtype(capsules, of.scalar_type());
  needs.numbers({"shares", shares}, {batch, below, above}, computing_type(of));
  needs.numbers({"sums", sums}, {batch, above, size}, computing_type(of));
  RouteJob job{};
  job.scalar = scalar_of(of), job.rounds = 1;
  job.below = below, job.above = above, job.size = size;
  job.capsules = capsule_operand(*capsules.tensor), job.shares = data_of(shares), job.sums = data_of(sums);
  return job;
}

template <class Kernel>
void run_route(const RouteJob& job, const Tensor& votes, Kernel kernel) {
  if (votes.numel() == 0) return;
  in_parallel(votes.size(0), job.rounds * job.below * job.above * job.size,
              [&](int64_t begin, int64_t end) { kernel(job, begin, end); });
}

void route_op(const Tensor& votes, Tensor capsules, OptionalTensor shares, OptionalTensor sums, int64_t rounds) {
  const Requirements needs("route");
  RouteJob job = route_job(needs, {"votes", votes}, {"capsules", capsules}, shares, sums);
  needs.that(rounds >= 1, "rounds is ", rounds, ", expected 1 at least");
  needs.apart({{"capsules", capsules}, {"shares", shares}, {"sums", sums}}, {{"votes", votes}});
  needs.apart({{"capsules", capsules}}, {{"shares", shares}, {"sums", sums}});
  needs.apart({{"shares", shares}}, {{"sums", sums}});
  job.votes = capsule_operand(votes), job.rounds = rounds;
  run_route(job, votes, route);
}

void route_backward_op(const Tensor& grad, const Tensor& shares, const Tensor& sums, Tensor grad_votes) {
  const Requirements needs("route_backward");
  RouteJob job = route_job(needs, {"grad_votes", grad_votes}, {"grad", grad}, shares, sums);
  needs.apart({{"grad_votes", grad_votes}}, {{"grad", grad}, {"shares", shares}, {"sums", sums}});
  job.grad_votes = capsule_operand(grad_votes);
  run_route(job, grad_votes, route_backward);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def("squash(Tensor x, Tensor(a!) y, int size, int inner) -> ()");
  m.def("squash_backward(Tensor grad, Tensor x, Tensor(a!) grad_x, int size, int inner) -> ()");
  m.def("route(Tensor votes, Tensor(a!) capsules, Tensor(b!)? shares, Tensor(c!)? sums, int rounds) -> ()");
  m.def("route_backward(Tensor grad, Tensor shares, Tensor sums, Tensor(a!) grad_votes) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("squash", TORCH_BOX(&squash_op));
  m.impl("squash_backward", TORCH_BOX(&squash_backward_op));
  m.impl("route", TORCH_BOX(&route_op));
  m.impl("route_backward", TORCH_BOX(&route_backward_op));
}

}  // namespace nnk
