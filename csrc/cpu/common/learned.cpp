#include "../learned.h"

#include <algorithm>
#include <cmath>

#include "../../geometry.h"

namespace nnk {
namespace {

// Orders the dimensions as they lie in the last operand; those within the channels' have to be one run of adjacent
// elements, those around it one run of any steps, in every operand.
bool find_channels(int dims, const int64_t* sizes, const int64_t* const* strides, int operands, LearnedJob* job) {
  std::vector<int> order;
  for (int d = 0; d < dims; ++d) {
    if (sizes[d] != 1) order.push_back(d);
  }
  const int64_t* last = strides[operands - 1];
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return last[a] < last[b]; });
  const size_t channel = std::find(order.begin(), order.end(), 1) - order.begin();
  job->outer = job->inner = 1, job->channels = sizes[1];
  for (size_t i = 0; i < order.size(); ++i) {
    const int d = order[i];
    int64_t& extent = i < channel ? job->inner : job->outer;
    for (int n = 0; n < operands; ++n) {
      const int64_t step = strides[n][d];
      if (i < channel) {
        if (step != extent) return false;
      } else if (i == channel) {
        job->operands[n].channel_stride = step;
        if (job->inner == 1 && step != 1) return false;
      } else if (i == channel + 1) {
        job->operands[n].outer_stride = step;
      } else if (step != extent * job->operands[n].outer_stride) {
        return false;
      }
    }
    if (i != channel) extent *= sizes[d];
  }
  return true;
}

// Rows of few elements would starve the vectors: their elements, or several rows of channels, become the channels.
LearnedColumns widen_rows(int operands, LearnedJob* job) {
  LearnedColumns columns{1, job->channels};
  const auto run_on = [&](int64_t LearnedOperand::* stride, int64_t extent) {
    return std::all_of(job->operands, job->operands + operands, [&](auto& one) { return one.*stride == extent; });
  };
  job->last = job->channels;
  if (job->channels == 1 || job->inner >= 32) return columns;
  if (job->inner > 1 && (job->outer < 8 || !run_on(&LearnedOperand::channel_stride, job->inner))) return columns;
  columns.step = job->inner;
  const int64_t row = job->channels * job->inner, rows = job->outer;
  job->inner = 1, job->channels = job->last = row;
  if (row >= 128 || !run_on(&LearnedOperand::outer_stride, row)) return columns;
  const int64_t together = std::min(rows, 255 / row + 1);
  job->channels = together * row;
  job->outer = (rows + together - 1) / together;
  for (int n = 0; n < operands; ++n) job->operands[n].outer_stride = job->channels;
  job->last = (rows - (job->outer - 1) * together) * row;
  return columns;
}

constexpr int64_t kItem = 16384;  // elements, about

// In the order of memory.
void cut(LearnedJob* job) {
  job->inner_block = std::min(job->inner, kItem);
  job->channel_block = std::clamp<int64_t>(kItem / job->inner_block, 1, job->channels);
  job->outer_block = std::max<int64_t>(1, kItem / (job->inner_block * job->channels));
}

// Blocks of fixed size, so that sums are the same for any number of threads, and enough elements of a channel in each
// that the partial sums are few beside the data.
void cut_for_sums(LearnedJob* job) {
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

}  // namespace

bool lay_out(int dims, const int64_t* sizes, const int64_t* const* strides, int operands, bool per_channel,
             LearnedJob* job, LearnedColumns* columns) {
  std::fill_n(job->operands, operands, LearnedOperand{});
  if (per_channel) {
    if (!find_channels(dims, sizes, strides, operands, job)) return false;
  } else {
    Geometry geometry;
    if (!plan(dims, sizes, strides, operands, &geometry)) return false;
    job->outer = geometry.rows, job->channels = 1, job->inner = geometry.cols;
    for (int n = 0; n < operands; ++n) job->operands[n].outer_stride = geometry.row_strides[n];
  }
  *columns = widen_rows(operands, job);
  (operands == 3 ? cut_for_sums : cut)(job);
  return true;
}

std::unique_ptr<char[]> learned_table(const std::vector<Numbers>& parameters, const std::vector<double>& constants,
                                      int64_t rows, LearnedColumns columns, int64_t channels, Scalar scalar) {
  const int64_t all =
      (static_cast<int64_t>(parameters.size()) * rows + static_cast<int64_t>(constants.size())) * channels;
  std::unique_ptr<char[]> memory(new char[all * size_of_computing(scalar)]);
  const Numbers table{memory.get(), computing_scalar(scalar)};
  int64_t at = 0;
  for (const Numbers& parameter : parameters) {
    for (int64_t row = 0; row < rows; ++row) {
      for (const int64_t end = at + channels; at < end;) {
        for (int64_t c = 0; c < columns.count; ++c) {
          const double number = parameter[row * columns.count + c];
          for (int64_t i = 0; i < columns.step; ++i) table.set(at++, number);
        }
      }
    }
  }
  for (const double constant : constants) {
    for (const int64_t end = at + channels; at < end;) table.set(at++, constant);
  }
  return memory;
}

namespace {

// The derivative of softplus as torch has it: beyond 20 it is 1.
double softplus_slope(double x) { return x > 20 ? 1 : 1 / (1 + std::exp(-x)); }

// By what the sum of parameter k's shares is multiplied, told the activation's parameters.
double lacking(Learned activation, int k, const double* p) {
  switch (activation) {
    case Learned::apl: return k == 1 ? p[0] : 1;
    case Learned::xielu: return softplus_slope(p[k]);
    case Learned::snake: return 1 / (p[0] + kSnakeGuard);
    case Learned::snake_beta: {
      const double inverse = 1 / (p[1] + kSnakeGuard);
      return k == 0 ? inverse : -inverse * inverse;
    }
    case Learned::dyt: return k == 0 ? p[1] : 1;
    default: return 1;
  }
}

}  // namespace

void learned_total(const LearnedJob& job, const std::vector<Numbers>& parameters, LearnedColumns columns,
                   const std::vector<Numbers>& gradients) {
  const int64_t rows = job.parameter_rows(), size = rows * job.channels, all = job.partial_sums();
  const Numbers partials{job.partials, computing_scalar(job.scalar)};
  std::vector<double> sums(size), folded(rows * columns.count);
  for (int64_t i = 0; i < all; i += size) {
    for (int64_t k = 0; k < size; ++k) sums[k] += partials[i + k];
  }
  for (int64_t k = 0; k < size; ++k) {
    folded[k / job.channels * columns.count + k % job.channels / columns.step % columns.count] += sums[k];
  }
  const int64_t each = job.segments * columns.count;
  const int count = parameters_of(job.activation);
  double p[kMostParameters];
  for (int64_t i = 0; i < each; ++i) {
    for (int k = 0; k < count; ++k) {
      const double number = parameters[k][i];
      p[k] = job.scalar == Scalar::f64 ? number : static_cast<float>(number);
    }
    for (int k = 0; k < count; ++k) gradients[k].set(i, lacking(job.activation, k, p) * folded[k * each + i]);
  }
}

}  // namespace nnk
