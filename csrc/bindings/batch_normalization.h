// The operators of normalisation + activation + residual. Tensors are dense, of any strides; only their memory counts,
// as the frame (batch, rows, channels, inner, group) sees it. An empty vector stands for a tensor that is not given;
// weight and bias are of the computing type.
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

inline int64_t sets_of(const std::vector<int64_t>& frame) { return frame[0] * frame[2] / frame[4]; }

// x, of at least two dimensions of which the second is the channels', and how its memory is seen.
inline void check_frame(const Requirements& needs, const Tensor& x, const std::vector<int64_t>& frame) {
  needs.floating({"x", x});
  needs.dense({"x", x});
  needs.that(x.dim() >= 2, "x has shape ", Shape(x), ", expected two dimensions or more");
  needs.that(frame.size() == 5, "frame has ", frame.size(), " numbers, expected 5");
  const int64_t batch = frame[0], rows = frame[1], channels = frame[2], inner = frame[3], group = frame[4];
  needs.that(batch > 0 && (batch == 1 || batch == x.size(0)) && rows >= 0 && channels > 0 && channels == x.size(1) &&
                 inner > 0 && multiply_to(x.numel(), {batch, rows, channels, inner}) && group > 0 &&
                 channels % group == 0,
             "x of shape ", Shape(x), " is not ", batch, " x ", rows, " x ", channels, " x ", inner, " in groups of ",
             group, " channels");
}

inline void check_parameters(const Requirements& needs, const Tensor& x, const Tensor& weight, const Tensor* bias) {
  const auto check = [&](const Argument& a) {
    if (!is_given(a.tensor)) return;
    needs.vector(a, x.size(1), computing_type(x.scalar_type()));
  };
  check({"weight", weight});
  if (bias) check({"bias", *bias});
}

// `rows` numbers of the computing type for each of `count`.
inline void check_numbers(const Requirements& needs, const Argument& a, const Tensor& x, int64_t rows, int64_t count) {
  needs.shape(a, {rows, count});
  needs.dtype(a, computing_type(x.scalar_type()));
  needs.contiguous(a);
}

inline NormJob norm_job(const Tensor& x, const std::vector<int64_t>& frame, int64_t activation, double a, double b) {
  NormJob job{};
  job.frame = {frame[0], frame[1], frame[2], frame[3], frame[4]};
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

inline Floats floats(const Tensor& t) { return {given(t), t.scalar_type() == ScalarType::Double}; }

inline Tensor new_floats(const Tensor& x, int64_t rows, int64_t cols) {
  return allocate(x, {rows, cols}, computing_type(x.scalar_type()));
}

// Statistics [4, sets] of x, the last row being sums of squares about the mean if `raw`; moves the running ones.
inline Tensor norm_statistics(const Tensor& x, Tensor mean, Tensor var, double momentum, double eps, bool raw,
                              std::vector<int64_t> frame) {
  const Requirements needs("norm_statistics");
  check_frame(needs, x, frame);
  needs.that(is_given(mean) == is_given(var), "mean and var are given together or not at all");
  if (is_given(mean)) {
    for (const Argument& a : {Argument{"mean", mean}, Argument{"var", var}}) {
      needs.shape(a, {sets_of(frame)});
      needs.dtype(a, a.tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float);
      needs.contiguous(a);
      needs.apart(a, {"x", x});
    }
    needs.apart({"mean", mean}, {"var", var});
  }

  NormJob job = norm_job(x, frame, 0, 0, 0);
  const NormFrame& f = job.frame;
  Tensor statistics = new_floats(x, 4, f.sets());
  const NormTasks tasks(f);
  const std::unique_ptr<double[]> partial(new double[2 * tasks.chunks * f.lanes()]);
  job.sums = partial.get();
  run_norm(job, [](const NormJob& j, int64_t begin, int64_t end) { norm_moments(j, begin, end); });
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
  const Requirements needs("norm_apply");
  check_activation(needs, activation);
  check_frame(needs, x, frame);
  if (is_given(residual)) needs.laid_out_as({"residual", residual}, {"x", x});
  check_parameters(needs, x, weight, &bias);
  check_numbers(needs, {"statistics", statistics}, x, 4, sets_of(frame));

  Tensor y = allocate_like(x);
  if (x.numel() == 0) return y;
  NormJob job = norm_job(x, frame, activation, a, b);
  const Lanes lanes(job, weight, &bias, statistics, nullptr);
  job.residual = given(residual);
  job.y = y.mutable_data_ptr();
  run_norm(job, [](const NormJob& j, int64_t begin, int64_t end) { norm_apply(j, begin, end); });
  return y;
}

// Numbers of the computing type, one for each element of x.
inline void check_dz(const Requirements& needs, const Tensor& dz, const Tensor& x) {
  needs.elements({"dz", dz}, x.numel());
  needs.dtype({"dz", dz}, computing_type(x.scalar_type()));
  needs.dense({"dz", dz});
}

// The sums of dz and of dz times the normalised value for each lane, [2, lanes], and the same of each set, its
// channels' times their weights, [2, sets]. Keeps dz; without memory for it writes grad_x for fixed statistics.
inline std::tuple<Tensor, Tensor> norm_sums_op(const Tensor& grad, const Tensor& x, const Tensor& residual,
                                               const Tensor& weight, const Tensor& bias, const Tensor& statistics,
                                               Tensor dz, Tensor grad_x, Tensor grad_residual, int64_t activation,
                                               double a, double b, std::vector<int64_t> frame) {
  const Requirements needs("norm_sums");
  check_activation(needs, activation);
  check_frame(needs, x, frame);
  needs.laid_out_as({"grad", grad}, {"x", x});
  needs.laid_out_as({"grad_x", grad_x}, {"x", x});
  if (is_given(residual)) needs.laid_out_as({"residual", residual}, {"x", x});
  if (is_given(grad_residual)) needs.laid_out_as({"grad_residual", grad_residual}, {"x", x});
  if (is_given(dz)) check_dz(needs, dz, x);
  check_parameters(needs, x, weight, &bias);
  check_numbers(needs, {"statistics", statistics}, x, 4, sets_of(frame));
  for (const Argument& a : {Argument{"grad_x", grad_x}, Argument{"grad_residual", grad_residual}, Argument{"dz", dz}}) {
    for (const Argument& read : {Argument{"grad", grad}, Argument{"x", x}, Argument{"residual", residual}}) {
      needs.apart(a, read);
    }
  }
  needs.apart({"grad_residual", grad_residual}, {"grad_x", grad_x});
  needs.apart({"grad_residual", grad_residual}, {"dz", dz});
  if (dz.numel() != 0 && dz.const_data_ptr() != grad_x.const_data_ptr()) needs.apart({"dz", dz}, {"grad_x", grad_x});

  NormJob job = norm_job(x, frame, activation, a, b);
  Tensor sums = new_floats(x, 2, job.frame.lanes()), totals = new_floats(x, 2, job.frame.sets());
  const Lanes lanes(job, weight, &bias, statistics, nullptr);
  job.grad = grad.mutable_data_ptr();
  job.residual = given(residual);
  job.grad_residual = given(grad_residual);
  job.grad_x = grad_x.mutable_data_ptr();
  job.dz = given(dz);
  const NormFrame& f = job.frame;
  const NormTasks tasks(f);
  const std::unique_ptr<double[]> partial(new double[2 * tasks.chunks * f.lanes()]);
  job.sums = partial.get();
  run_norm(job, [](const NormJob& j, int64_t begin, int64_t end) { norm_sums(j, begin, end); });
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
  const Requirements needs("norm_spread");
  check_frame(needs, x, frame);
  check_dz(needs, dz, x);
  needs.laid_out_as({"grad_x", grad_x}, {"x", x});
  check_parameters(needs, x, weight, nullptr);
  check_numbers(needs, {"statistics", statistics}, x, 4, sets_of(frame));
  check_numbers(needs, {"totals", totals}, x, 2, sets_of(frame));
  needs.apart({"grad_x", grad_x}, {"x", x});
  if (dz.const_data_ptr() != grad_x.const_data_ptr()) needs.apart({"grad_x", grad_x}, {"dz", dz});
  if (x.numel() == 0) return;

  NormJob job = norm_job(x, frame, 0, 0, 0);
  const Lanes lanes(job, weight, nullptr, statistics, &totals);
  job.dz = dz.mutable_data_ptr();
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
