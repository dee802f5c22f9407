#include "../batch_normalization.h"

#include <cmath>

namespace nnk {
namespace {

// How many values of a lane a task's chunk of rows has.
double values_of(const NormFrame& f, const NormTasks& tasks, int64_t chunk) {
  const int64_t left = f.rows - chunk * tasks.rows_each;
  return static_cast<double>((left < tasks.rows_each ? left : tasks.rows_each) * f.inner);
}

}  // namespace

std::unique_ptr<double[]> norm_partials(NormJob* job) {
  std::unique_ptr<double[]> memory(new double[2 * NormTasks(job->frame).chunks * job->frame.lanes()]);
  job->sums = memory.get();
  return memory;
}

void norm_merge(const NormJob& job, Numbers statistics, Numbers running_mean, Numbers running_var, double momentum,
                double eps, bool raw) {
  const NormFrame& f = job.frame;
  const NormTasks tasks(f);
  for (int64_t set = 0; set < f.sets(); ++set) {
    double count = 0, center = 0, squares = 0;
    for (int64_t chunk = 0; chunk < tasks.chunks; ++chunk) {
      const double values = values_of(f, tasks, chunk);
      for (int64_t lane = set * f.group; lane < (set + 1) * f.group; ++lane) {
        const double* one = job.sums + 2 * (chunk * f.lanes() + lane);
        const double off = one[0] - center, part = values / (count + values);
        center += off * part;
        squares += one[1] + off * off * (count * part);
        count += values;
      }
    }
    const int64_t mean = kCenter * f.sets() + set;
    statistics.set(kCount * f.sets() + set, count);
    statistics.set(mean, center);
    statistics.set(kLow * f.sets() + set, center - statistics[mean]);
    statistics.set(kRstd * f.sets() + set, raw ? squares : 1 / std::sqrt(squares / count + eps));
    if (running_mean) {
      running_mean.set(set, running_mean[set] + momentum * (center - running_mean[set]));
      running_var.set(set, running_var[set] + momentum * (squares / (count - 1) - running_var[set]));
    }
  }
}

void norm_total(const NormJob& job, Numbers statistics, Numbers weight, Numbers sums, Numbers totals) {
  const NormFrame& f = job.frame;
  const int64_t chunks = NormTasks(f).chunks;
  for (int64_t set = 0; set < f.sets(); ++set) {
    const double low = statistics[kLow * f.sets() + set], rstd = statistics[kRstd * f.sets() + set];
    double total = 0, along = 0;
    for (int64_t lane = set * f.group; lane < (set + 1) * f.group; ++lane) {
      double dz = 0, away = 0;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        dz += job.sums[2 * (chunk * f.lanes() + lane)];
        away += job.sums[2 * (chunk * f.lanes() + lane) + 1];
      }
      away = rstd * (away - low * dz);
      sums.set(lane, dz);
      sums.set(f.lanes() + lane, away);
      const double factor = weight ? weight[lane % f.channels] : 1.0;
      total += factor * dz;
      along += factor * away;
    }
    totals.set(set, total);
    totals.set(f.sets() + set, along);
  }
}

std::unique_ptr<char[]> norm_lanes(NormJob* job, Numbers statistics, Numbers weight, Numbers bias, Numbers totals) {
  const NormFrame& f = job->frame;
  const int64_t lanes = f.lanes(), sets = f.sets(), size = size_of_computing(job->scalar);
  std::unique_ptr<char[]> memory(new char[5 * lanes * size]);
  const auto array = [&](int i) { return Numbers{memory.get() + i * lanes * size, computing_scalar(job->scalar)}; };
  const Numbers center = array(0), scale = array(1), shift = array(2), along = array(3), offset = array(4);
  for (int64_t lane = 0; lane < lanes; ++lane) {
    const int64_t set = lane / f.group, channel = lane % f.channels;
    const double rstd = statistics[kRstd * sets + set], low = statistics[kLow * sets + set];
    const double factor = rstd * (weight ? weight[channel] : 1.0);
    center.set(lane, statistics[kCenter * sets + set]);
    scale.set(lane, factor);
    shift.set(lane, (bias ? bias[channel] : 0.0) - low * factor);
    if (totals) {
      const double each = rstd / statistics[kCount * sets + set], slope = -each * rstd * totals[sets + set];
      along.set(lane, slope);
      offset.set(lane, -each * totals[set] - slope * low);
    }
  }
  job->center = center.data;
  job->scale = scale.data;
  job->shift = shift.data;
  job->along = along.data;
  job->offset = offset.data;
  return memory;
}

}  // namespace nnk
