// The operators of normalisation + activation + residual. Tensors are dense, of any strides; only their memory counts,
// as the frame (batch, rows, channels, inner, group) sees it. An empty tensor stands for one that is not given; weight
// and bias are of the computing type.
#pragma once

#include <cmath>
#include <cstdlib>
#include <memory>
#include <vector>

#include "../cpu/batch_normalization.h"
#include "ops.h"

namespace nnk {

enum NormRow { kCount, kCenter, kLow, kRstd };

inline void* given(const Tensor& t) { return t.numel() == 0 ? nullptr : t.mutable_data_ptr(); }

inline NormJob norm_job(const Tensor& x, const std::vector<int64_t>& frame, int64_t activation, double a, double b) {
  STD_TORCH_CHECK(activation >= 0 && activation < count_activations(), "nnkernels: no activation has index ",
                  activation);
  STD_TORCH_CHECK(frame.size() == 5, "nnkernels: expected the 5 numbers of a frame, got ", frame.size());
  NormJob job{};
  job.frame = {frame[0], frame[1], frame[2], frame[3], frame[4]};
  const NormFrame& f = job.frame;
  STD_TORCH_CHECK(x.numel() == f.batch * f.rows * f.channels * f.inner && f.group > 0 && f.channels % f.group == 0,
                  "nnkernels: ", x.numel(), " elements are not ", f.batch, " x ", f.rows, " x ", f.channels, " x ",
                  f.inner, " in groups of ", f.group, " channels");
  job.activation = static_cast<int>(activation);
  job.scalar = scalar_of(x);
  job.a = a;
  job.b = b;
  job.x = x.mutable_data_ptr();
  return job;
}

template <class Kernel>
void run_norm(const NormJob& job, Kernel kernel) {
  const NormFrame& f = job.frame;
  if (f.lanes() * f.rows * f.inner == 0) return;
  const NormTasks tasks(f);
  const int64_t grain = 32768 / (tasks.rows_each * tasks.channels_each * f.inner);
  torch::stable::parallel_for(0, f.batch * tasks.chunks * tasks.blocks, grain > 0 ? grain : 1,
                              [&](int64_t begin, int64_t end) { kernel(job, begin, end); });
}

// How many values of a channel a task's chunk of rows has.
inline double values_of(const NormFrame& f, const NormTasks& tasks, int64_t chunk) {
  const int64_t left = f.rows - chunk * tasks.rows_each;
  return static_cast<double>((left < tasks.rows_each ? left : tasks.rows_each) * f.inner);
}

struct Floats {  // an array of the computing type
  void* data;
  bool wide;
  double operator[](int64_t i) const {
    return wide ? static_cast<const double*>(data)[i] : static_cast<const float*>(data)[i];
  }
  void set(int64_t i, double x) const {
    wide ? void(static_cast<double*>(data)[i] = x) : void(static_cast<float*>(data)[i] = static_cast<float>(x));
  }
};

inline Floats floats(const Tensor& t) {
  const Scalar scalar = scalar_of(t);
  STD_TORCH_CHECK(scalar == Scalar::f64 || scalar == Scalar::f32, "nnkernels: expected float64 or float32 numbers");
  STD_TORCH_CHECK(t.is_contiguous(), "nnkernels: expected adjacent numbers");
  return {given(t), scalar == Scalar::f64};
}

inline Tensor new_floats(const Tensor& x, int64_t rows, int64_t cols) {
  const bool wide = scalar_of(x) == Scalar::f64;
  return torch::stable::new_empty(x, {rows, cols},
                                  wide ? torch::headeronly::ScalarType::Double : torch::headeronly::ScalarType::Float);
}

// Statistics [4, sets] of x, the last row being sums of squares about the mean if `raw`; moves the running ones.
inline Tensor norm_statistics(const Tensor& x, Tensor mean, Tensor var, double momentum, double eps, bool raw,
                              std::vector<int64_t> frame) {
  NormJob job = norm_job(x, frame, 0, 0, 0);
  const NormFrame& f = job.frame;
  const NormTasks tasks(f);
  const std::unique_ptr<double[]> partial(new double[2 * tasks.chunks * f.lanes()]);
  job.sums = partial.get();
  run_norm(job, [](const NormJob& j, int64_t begin, int64_t end) { norm_moments(j, begin, end); });
  Tensor statistics = new_floats(x, 4, f.sets());
  const Floats out = floats(statistics);
  const Floats kept_mean = floats(mean), kept_var = floats(var);
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
    const double rounded = out.wide ? center : static_cast<float>(center);
    out.set(kCount * f.sets() + set, count);
    out.set(kCenter * f.sets() + set, rounded);
    out.set(kLow * f.sets() + set, center - rounded);
    out.set(kRstd * f.sets() + set, raw ? squares : 1 / std::sqrt(squares / count + eps));
    if (kept_mean.data) {
      kept_mean.set(set, kept_mean[set] + momentum * (center - kept_mean[set]));
      kept_var.set(set, kept_var[set] + momentum * (squares / (count - 1) - kept_var[set]));
    }
  }
  return statistics;
}

// Each lane's numbers, which a job points to.
struct Lanes {
  std::unique_ptr<char[]> memory;

  Lanes(NormJob& job, const Tensor& weight, const Tensor* bias, const Tensor& statistics, const Tensor* totals) {
    const NormFrame& f = job.frame;
    const int64_t lanes = f.lanes(), sets = f.sets(), size = job.scalar == Scalar::f64 ? 8 : 4;
    const Floats kept = floats(statistics), w = floats(weight), b = bias ? floats(*bias) : Floats{};
    STD_TORCH_CHECK(statistics.numel() == 4 * sets, "nnkernels: expected 4 x ", sets, " statistics");
    STD_TORCH_CHECK((!w.data || weight.numel() == f.channels) && (!b.data || bias->numel() == f.channels),
                    "nnkernels: expected ", f.channels, " weights and biases");
    memory.reset(new char[5 * lanes * size]);
    const auto array = [&](int i) { return Floats{memory.get() + i * lanes * size, size == 8}; };
    const Floats center = array(0), scale = array(1), shift = array(2), along = array(3), offset = array(4);
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const int64_t set = lane / f.group, channel = lane % f.channels;
      const double rstd = kept[kRstd * sets + set], low = kept[kLow * sets + set];
      const double factor = rstd * (w.data ? w[channel] : 1.0);
      center.set(lane, kept[kCenter * sets + set]);
      scale.set(lane, factor);
      shift.set(lane, (b.data ? b[channel] : 0.0) - low * factor);
      if (totals) {
        const Floats sum = floats(*totals);
        const double each = rstd / kept[kCount * sets + set], slope = -each * rstd * sum[sets + set];
        along.set(lane, slope);
        offset.set(lane, -each * sum[set] - slope * low);
      }
    }
    job.center = center.data;
    job.scale = scale.data;
    job.shift = shift.data;
    job.along = along.data;
    job.offset = offset.data;
  }
};

inline Tensor norm_apply_op(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias,
                            const Tensor& statistics, int64_t activation, double a, double b,
                            std::vector<int64_t> frame) {
  Tensor y = torch::stable::empty_like(x);
  NormJob job = norm_job(x, frame, activation, a, b);
  const Lanes lanes(job, weight, &bias, statistics, nullptr);
  if (residual.numel() != 0) check_alike(residual, x);
  job.residual = given(residual);
  job.y = y.mutable_data_ptr();
  run_norm(job, [](const NormJob& j, int64_t begin, int64_t end) { norm_apply(j, begin, end); });
  return y;
}

// Numbers of the computing type, one for each element of x.
inline void* wide_data(const Tensor& t, const Tensor& x) {
  STD_TORCH_CHECK(t.numel() == x.numel() && (scalar_of(t) == Scalar::f64) == (scalar_of(x) == Scalar::f64) &&
                      scalar_of(t) <= Scalar::f32,
                  "nnkernels: expected ", x.numel(), " numbers of the computing type");
  return t.mutable_data_ptr();
}

// The sums of dz and of dz times the normalised value for each lane, [2, lanes], and the same of each set, its
// channels' times their weights, [2, sets]. Keeps dz; without memory for it writes grad_x for fixed statistics.
inline std::tuple<Tensor, Tensor> norm_sums_op(const Tensor& grad, const Tensor& x, const Tensor& residual,
                                               const Tensor& weight, const Tensor& bias, const Tensor& statistics,
                                               Tensor dz, Tensor grad_x, Tensor grad_residual, int64_t activation,
                                               double a, double b, std::vector<int64_t> frame) {
  NormJob job = norm_job(x, frame, activation, a, b);
  for (const Tensor& t : {grad, grad_x}) check_alike(t, x);
  for (const Tensor& t : {residual, grad_residual}) {
    if (t.numel() != 0) check_alike(t, x);
  }
  const Lanes lanes(job, weight, &bias, statistics, nullptr);
  job.grad = grad.mutable_data_ptr();
  job.residual = given(residual);
  job.grad_residual = given(grad_residual);
  job.grad_x = grad_x.mutable_data_ptr();
  if (dz.numel() != 0) job.dz = wide_data(dz, x);
  const NormFrame& f = job.frame;
  const NormTasks tasks(f);
  const std::unique_ptr<double[]> partial(new double[2 * tasks.chunks * f.lanes()]);
  job.sums = partial.get();
  run_norm(job, [](const NormJob& j, int64_t begin, int64_t end) { norm_sums(j, begin, end); });
  Tensor sums = new_floats(x, 2, f.lanes()), totals = new_floats(x, 2, f.sets());
  const Floats out = floats(sums), whole = floats(totals), kept = floats(statistics), w = floats(weight);
  for (int64_t set = 0; set < f.sets(); ++set) {
    const double low = kept[kLow * f.sets() + set], rstd = kept[kRstd * f.sets() + set];
    double total = 0, along = 0;
    for (int64_t lane = set * f.group; lane < (set + 1) * f.group; ++lane) {
      double dz = 0, away = 0;
      for (int64_t chunk = 0; chunk < tasks.chunks; ++chunk) {
        dz += job.sums[2 * (chunk * f.lanes() + lane)];
        away += job.sums[2 * (chunk * f.lanes() + lane) + 1];
      }
      away = rstd * (away - low * dz);
      out.set(lane, dz);
      out.set(f.lanes() + lane, away);
      const double factor = w.data ? w[lane % f.channels] : 1.0;
      total += factor * dz;
      along += factor * away;
    }
    whole.set(set, total);
    whole.set(f.sets() + set, along);
  }
  return {sums, totals};
}

// The gradient of x from what norm_sums kept.
inline void norm_spread_op(const Tensor& dz, const Tensor& x, const Tensor& weight, const Tensor& statistics,
                           const Tensor& totals, Tensor grad_x, std::vector<int64_t> frame) {
  NormJob job = norm_job(x, frame, 0, 0, 0);
  check_alike(grad_x, x);
  const Lanes lanes(job, weight, nullptr, statistics, &totals);
  job.dz = wide_data(dz, x);
  job.grad_x = grad_x.mutable_data_ptr();
  run_norm(job, [](const NormJob& j, int64_t begin, int64_t end) { norm_spread(j, begin, end); });
}

STABLE_TORCH_LIBRARY_FRAGMENT(nnkernels, m) {
  m.def(
      "norm_statistics(Tensor x, Tensor(a!) mean, Tensor(b!) var, float momentum, float eps, bool raw, int[] frame) -> "
      "Tensor");
  m.def(
      "norm_apply(Tensor x, Tensor residual, Tensor weight, Tensor bias, Tensor statistics, int activation, float a, "
      "float b, int[] frame) -> Tensor");
  m.def(
      "norm_sums(Tensor grad, Tensor x, Tensor residual, Tensor weight, Tensor bias, Tensor statistics, "
      "Tensor(a!) dz, Tensor(b!) grad_x, Tensor(c!) grad_residual, int activation, float a, float b, int[] frame) -> "
      "(Tensor, Tensor)");
  m.def(
      "norm_spread(Tensor dz, Tensor x, Tensor weight, Tensor statistics, Tensor totals, Tensor(a!) grad_x, "
      "int[] frame) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(nnkernels, CPU, m) {
  m.impl("norm_statistics", TORCH_BOX(&norm_statistics));
  m.impl("norm_apply", TORCH_BOX(&norm_apply_op));
  m.impl("norm_sums", TORCH_BOX(&norm_sums_op));
  m.impl("norm_spread", TORCH_BOX(&norm_spread_op));
}

}  // namespace nnk
