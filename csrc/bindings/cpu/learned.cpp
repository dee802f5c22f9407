// The activations with learned parameters.
#include "../../cpu/learned.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../launching.h"

namespace nnk {
namespace {

using Parameters = std::vector<Tensor>;
using Constants = std::vector<double>;

int64_t segments_of(int64_t activation, const Parameters& parameters) {
  return activation == static_cast<int64_t>(Learned::apl) ? parameters[0].size(0) : 1;
}

// x, and parameters that are contiguous and have one column, or one for each channel.
void check_learned(const Requirements& needs, const Tensor& x, int64_t activation, const Parameters& parameters,
                   const Constants& constants) {
  needs.floating({"x", x});
  needs.in_range("activation", activation, 0, kLearned - 1);
  const bool apl = activation == static_cast<int64_t>(Learned::apl);
  const size_t count = parameters_of(static_cast<Learned>(activation));
  const size_t numbers = constants_of(static_cast<Learned>(activation));
  needs.that(parameters.size() == count, "got ", parameters.size(), " parameters, expected ", count);
  needs.that(constants.size() == numbers, "got ", constants.size(), " constants, expected ", numbers);
  const Tensor& first = parameters[0];
  const bool no_channels = x.dim() > 1 && x.size(1) == 0;
  needs.that((first.numel() > 0 || no_channels) && (!apl || first.dim() > 0), "parameters have shape ", Shape(first));
  for (const Tensor& p : parameters) {
    const Argument a{"a parameter", p};
    needs.floating(a);
    needs.contiguous(a);
    needs.that(apl ? p.sizes().equals(first.sizes()) : p.numel() == first.numel(), "parameters have shapes ",
               Shape(first), " and ", Shape(p), ", expected one shape");
  }
  const int64_t segments = segments_of(activation, parameters);
  needs.in_range("the number of segments", segments, 1, INT32_MAX);
  const int64_t columns = first.numel() / segments;
  needs.that(columns == 1 || (x.dim() > 1 && columns == x.size(1)), "parameters have shape ", Shape(first),
             ", expected one number or one for each channel of x of shape ", Shape(x));
}

std::vector<Numbers> all_numbers_of(const Parameters& parameters) {
  std::vector<Numbers> all;
  for (const Tensor& p : parameters) all.push_back(numbers_of(p));
  return all;
}

// Inputs come first, then the output. Writes the gradients of the parameters, where there are any.
template <size_t N>
void launch_learned(const Requirements& needs, int64_t activation, std::array<Tensor, N> operands,
                    const Parameters& parameters, const Constants& constants, const Parameters& gradients) {
  const Tensor& output = operands[N - 1];
  if (output.numel() == 0) {
    for (Tensor gradient : gradients) torch::stable::zero_(gradient);
    return;
  }
  LearnedJob job{};
  LearnedColumns columns;
  job.activation = static_cast<Learned>(activation);
  job.scalar = scalar_of(output);
  job.segments = static_cast<int>(segments_of(activation, parameters));
  const bool per_channel = parameters[0].numel() > job.segments;
  line_up(needs, operands, 1, [&](auto dims, auto sizes, auto strides, auto n) {
    return lay_out(dims, sizes, strides, n, per_channel, &job, &columns);
  });
  for (size_t n = 0; n < N; ++n) job.operands[n].data = operands[n].mutable_data_ptr();

  const std::vector<Numbers> given = all_numbers_of(parameters);
  const auto table = learned_table(given, constants, job.segments, columns, job.channels, job.scalar);
  std::vector<double> partials;  // or as many floats
  if (!gradients.empty()) partials.resize(job.partial_sums());
  job.parameters = table.get();
  job.partials = gradients.empty() ? nullptr : partials.data();
  in_parallel(job.items(), job.outer_block * job.channel_block * job.inner_block,
              [&](int64_t begin, int64_t end) { (N == 2 ? learned_forward : learned_backward)(job, begin, end); });
  if (!gradients.empty()) learned_total(job, given, columns, all_numbers_of(gradients));
}

Tensor learned_forward_op(const Tensor& x, int64_t activation, Parameters parameters, Constants constants) {
  const Requirements needs("learned_forward");
  check_learned(needs, x, activation, parameters, constants);

  Tensor y = allocate_like(x);
  launch_learned<2>(needs, activation, {x, y}, parameters, constants, {});
  return y;
}

std::tuple<Tensor, Parameters> learned_backward_op(const Tensor& grad, const Tensor& x, int64_t activation,
                                                   Parameters parameters, Constants constants, bool for_parameters) {
  const Requirements needs("learned_backward");
  check_learned(needs, x, activation, parameters, constants);
  needs.alike({"grad", grad}, {"x", x});

  Tensor grad_input = allocate_like(x);
  Parameters gradients;
  if (for_parameters) {
    for (const Tensor& p : parameters) gradients.push_back(allocate_like(p));
  }
  launch_learned<3>(needs, activation, {grad, x, grad_input}, parameters, constants, gradients);
  return {grad_input, std::move(gradients)};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def("learned_forward(Tensor x, int activation, Tensor[] parameters, float[] constants) -> Tensor");
  m.def(
      "learned_backward(Tensor grad, Tensor x, int activation, Tensor[] parameters, float[] constants, "
      "bool for_parameters) -> (Tensor, Tensor[])");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("learned_forward", TORCH_BOX(&learned_forward_op));
  m.impl("learned_backward", TORCH_BOX(&learned_backward_op));
}

}  // namespace nnk
