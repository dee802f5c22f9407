// Operators of the activations with learned parameters, on the CPU.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <vector>

#include "../cpu/learned.h"
#include "ops.h"

namespace nnk::learned {

// How the operands lie: as LearnedJob has it, in elements.
struct Layout {
  int64_t outer = 1, channels = 1, inner = 1;
  int64_t outer_strides[3] = {}, channel_strides[3] = {};
};

// Orders the dimensions as they lie in the last operand (the output); those within the channels' have to be one run of
// adjacent elements, those around it one run of any steps, in every operand. One channel: as geometry.h has it.
template <size_t N>
bool lay_out(const std::array<Tensor, N>& operands, bool per_channel, Layout* layout) {
  const int dims = static_cast<int>(operands[0].dim());
  const int64_t* sizes = operands[0].sizes().data();
  const int64_t* strides[N];
  for (size_t n = 0; n < N; ++n) strides[n] = operands[n].strides().data();
  if (!per_channel) {
    Geometry geometry;
    if (!plan(dims, sizes, strides, N, &geometry)) return false;
    layout->outer = geometry.rows, layout->inner = geometry.cols;
    for (size_t n = 0; n < N; ++n) layout->outer_strides[n] = geometry.row_strides[n];
    return true;
  }
  std::vector<int> order;
  for (int d = 0; d < dims; ++d) {
    if (sizes[d] != 1) order.push_back(d);
  }
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return strides[N - 1][a] < strides[N - 1][b]; });
  const size_t channel = std::find(order.begin(), order.end(), 1) - order.begin();
  layout->channels = sizes[1];
  for (size_t i = 0; i < order.size(); ++i) {
    const int d = order[i];
    int64_t& extent = i < channel ? layout->inner : layout->outer;
    for (size_t n = 0; n < N; ++n) {
      const int64_t step = strides[n][d];
      if (i < channel) {
        if (step != extent) return false;
      } else if (i == channel) {
        layout->channel_strides[n] = step;
        if (layout->inner == 1 && step != 1) return false;
      } else if (i == channel + 1) {
        layout->outer_strides[n] = step;
      } else if (step != extent * layout->outer_strides[n]) {
        return false;
      }
    }
    if (i != channel) extent *= sizes[d];
  }
  return true;
}

// Blocks of fixed size, so that sums are the same for any number of threads: about kItem elements, and enough of them
// for each channel that the partial sums are few beside the data.
inline void cut(LearnedJob* job) {
  constexpr int64_t kItem = 16384;
  if (job->inner == 1) {
    job->inner_block = 1, job->channel_block = 128, job->outer_block = 256;
    return;
  }
  job->inner_block = std::min(job->inner, kItem);
  job->outer_block = std::min(job->outer, (1023 + job->inner_block) / job->inner_block);
  job->channel_block = std::clamp<int64_t>(kItem / (job->inner_block * job->outer_block), 1, job->channels);
  if (job->channel_block == job->channels) {
    job->outer_block = std::max(job->outer_block, kItem / (job->channels * job->inner_block));
  }
}

// Column v of the parameters is channel v / step % count.
struct Columns {
  int64_t step = 1, count = 1;
};

// Rows of few elements would starve the vectors: their elements, or several rows of channels, become the channels.
template <size_t N>
Columns widen_rows(Layout* layout, int64_t* last) {
  Columns columns{1, layout->channels};
  const auto runs_on = [&](const int64_t* strides, int64_t extent) {
    return std::all_of(strides, strides + N, [&](int64_t stride) { return stride == extent; });
  };
  *last = layout->channels;
  if (layout->channels == 1 || layout->inner >= 32) return columns;
  if (layout->inner > 1 && (layout->outer < 8 || !runs_on(layout->channel_strides, layout->inner))) return columns;
  columns.step = layout->inner;
  const int64_t row = layout->channels * layout->inner, rows = layout->outer;
  layout->inner = 1, layout->channels = *last = row;
  if (row >= 128 || !runs_on(layout->outer_strides, row)) return columns;
  const int64_t together = std::min(rows, 255 / row + 1);
  layout->channels = together * row;
  layout->outer = (rows + together - 1) / together;
  for (size_t n = 0; n < N; ++n) layout->outer_strides[n] = layout->channels;
  *last = (rows - (layout->outer - 1) * together) * row;
  return columns;
}

template <class Visit>
void with_type_of(const Tensor& t, Visit visit) {
  switch (scalar_of(t)) {
    case Scalar::f64: return visit(static_cast<double*>(t.mutable_data_ptr()));
    case Scalar::f32: return visit(static_cast<float*>(t.mutable_data_ptr()));
    case Scalar::bf16: return visit(static_cast<torch::headeronly::BFloat16*>(t.mutable_data_ptr()));
    case Scalar::f16: return visit(static_cast<torch::headeronly::Half*>(t.mutable_data_ptr()));
  }
}

// The rows of all `parameters`, one column for each of the job's channels.
template <class T>
std::vector<T> table_of(const std::vector<Tensor>& parameters, const Columns& columns, int64_t channels) {
  std::vector<T> table;
  for (const Tensor& parameter : parameters) {
    with_type_of(parameter, [&](const auto* from) {
      for (int64_t row = 0; row < parameter.numel() / columns.count; ++row) {
        for (int64_t v = 0; v < channels;) {
          for (int64_t c = 0; c < columns.count; ++c) {
            for (int64_t i = 0; i < columns.step; ++i, ++v) {
              table.push_back(static_cast<T>(from[row * columns.count + c]));
            }
          }
        }
      }
    });
  }
  return table;
}

// Adds up the partial sums, in their order and in double, into gradients like `parameters`.
template <class T>
std::vector<Tensor> total(const std::vector<T>& partials, const LearnedJob& job, const std::vector<Tensor>& parameters,
                          const Columns& columns) {
  const int64_t rows = job.parameter_rows(), size = rows * job.channels;
  std::vector<double> sums(size);
  for (size_t i = 0; i < partials.size(); i += size) {
    for (int64_t k = 0; k < size; ++k) sums[k] += partials[i + k];
  }
  std::vector<double> folded(rows * columns.count);
  for (int64_t k = 0; k < size; ++k) {
    folded[k / job.channels * columns.count + k % job.channels / columns.step % columns.count] += sums[k];
  }
  if (job.activation == Learned::apl) {
    const int64_t half = folded.size() / 2;
    with_type_of(parameters[0], [&](const auto* slopes) {
      for (int64_t i = 0; i < half; ++i) folded[half + i] *= static_cast<T>(slopes[i]);
    });
  }
  std::vector<Tensor> gradients;
  const double* from = folded.data();
  for (const Tensor& parameter : parameters) {
    gradients.push_back(allocate_like(parameter));
    with_type_of(gradients.back(), [&](auto* to) {
      using To = std::remove_reference_t<decltype(*to)>;
      for (int64_t i = 0; i < parameter.numel(); ++i) {
        if constexpr (sizeof(To) == 2) {
          to[i] = To(static_cast<float>(*from++));
        } else {
          to[i] = static_cast<To>(*from++);
        }
      }
    });
  }
  return gradients;
}

inline int64_t segments_of(int64_t activation, const std::vector<Tensor>& parameters) {
  return activation == static_cast<int64_t>(Learned::apl) ? parameters[0].size(0) : 1;
}

// x, and parameters that are contiguous and have one column, or one for each channel.
inline void check_learned(const Requirements& needs, const Tensor& x, int64_t activation,
                          const std::vector<Tensor>& parameters) {
  needs.floating({"x", x});
  needs.in_range("activation", activation, 0, static_cast<int64_t>(Learned::apl));
  const bool apl = activation == static_cast<int64_t>(Learned::apl);
  needs.that(parameters.size() == (apl ? 2 : 1), "got ", parameters.size(), " parameters, expected ", apl ? 2 : 1);
  const Tensor& first = parameters[0];
  const bool no_channels = x.dim() > 1 && x.size(1) == 0;
  needs.that((first.numel() > 0 || no_channels) && (!apl || first.dim() > 0), "parameters have shape ", Shape(first));
  for (const Tensor& p : parameters) {
    const Argument a{"a parameter", p};
    needs.floating(a);
    needs.contiguous(a);
    needs.that(p.sizes().equals(first.sizes()), "parameters have shapes ", Shape(first), " and ", Shape(p),
               ", expected one shape");
  }
  const int64_t segments = segments_of(activation, parameters);
  needs.in_range("the number of segments", segments, 1, INT32_MAX);
  const int64_t count = first.numel() / segments;
  needs.that(count == 1 || (x.dim() > 1 && count == x.size(1)), "parameters have shape ", Shape(first),
             ", expected one number or one for each channel of x of shape ", Shape(x));
}

// Inputs come first, then the output. The parameters are contiguous and have one column, or one for each channel.
template <size_t N>
std::vector<Tensor> launch(const Requirements& needs, int64_t activation, std::array<Tensor, N> operands,
                           const std::vector<Tensor>& parameters, bool for_parameters) {
  const Tensor& output = operands[N - 1];
  const int64_t segments = segments_of(activation, parameters);
  const int64_t count = parameters[0].numel() / segments;
  if (output.numel() == 0) {
    std::vector<Tensor> zeros;
    for (const Tensor& p : parameters) {
      zeros.push_back(allocate_like(p));
      torch::stable::zero_(zeros.back());
    }
    return zeros;
  }
  Layout layout;
  if (!lay_out(operands, count > 1, &layout)) {
    for (size_t n = 0; n + 1 < N; ++n) {
      Tensor copy = allocate_like(output);
      torch::stable::copy_(copy, operands[n]);
      operands[n] = copy;
    }
    layout = {};
    needs.that(lay_out(operands, count > 1, &layout), "the output is not dense");
  }
  LearnedJob job{};
  job.activation = static_cast<Learned>(activation);
  job.scalar = scalar_of(output);
  job.segments = static_cast<int>(segments);
  const Columns columns = widen_rows<N>(&layout, &job.last);
  job.outer = layout.outer, job.channels = layout.channels, job.inner = layout.inner;
  for (size_t n = 0; n < N; ++n) {
    job.operands[n] = {operands[n].mutable_data_ptr(), layout.outer_strides[n], layout.channel_strides[n]};
  }
  cut(&job);

  const auto run = [&](auto zero) -> std::vector<Tensor> {
    using T = decltype(zero);
    const std::vector<T> table = table_of<T>(parameters, columns, job.channels);
    std::vector<T> partials;
    if (for_parameters) partials.resize(job.outer_blocks() * job.inner_blocks() * job.parameter_rows() * job.channels);
    job.parameters = table.data(), job.partials = for_parameters ? partials.data() : nullptr;
    const auto some = [&](int64_t begin, int64_t end) {
      (N == 2 ? learned_forward : learned_backward)(job, begin, end);
    };
    const int64_t items = job.items();
    const int64_t grain = std::max<int64_t>(1, 32768 / (job.outer_block * job.channel_block * job.inner_block));
    if (items > grain) {
      torch::stable::parallel_for(0, items, grain, some);
    } else {
      some(0, items);
    }
    return for_parameters ? total(partials, job, parameters, columns) : std::vector<Tensor>();
  };
  return job.scalar == Scalar::f64 ? run(0.0) : run(0.0f);
}

inline Tensor forward(const Tensor& x, int64_t activation, std::vector<Tensor> parameters) {
  const Requirements needs("learned_forward");
  check_learned(needs, x, activation, parameters);

  Tensor y = allocate_like(x);
  launch<2>(needs, activation, {x, y}, parameters, false);
  return y;
}

inline std::tuple<Tensor, std::vector<Tensor>> backward(const Tensor& grad, const Tensor& x, int64_t activation,
                                                        std::vector<Tensor> parameters, bool for_parameters) {
  const Requirements needs("learned_backward");
  check_learned(needs, x, activation, parameters);
  needs.alike({"grad", grad}, {"x", x});

  Tensor grad_input = allocate_like(x);
  std::vector<Tensor> gradients = launch<3>(needs, activation, {grad, x, grad_input}, parameters, for_parameters);
  return {grad_input, std::move(gradients)};
}

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def("learned_forward(Tensor x, int activation, Tensor[] parameters) -> Tensor");
  m.def(
      "learned_backward(Tensor grad, Tensor x, int activation, Tensor[] parameters, bool for_parameters) -> (Tensor, "
      "Tensor[])");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("learned_forward", TORCH_BOX(&forward));
  m.impl("learned_backward", TORCH_BOX(&backward));
}

}  // namespace nnk::learned
