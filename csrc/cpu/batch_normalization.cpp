// Tiles that stay in the first-level cache; the family's own loops give value and derivative.
//
// Sums run in the computing type over at most a tile's elements or a task's rows, and in double over those. Squares are
// taken about the mean of what they are summed over, or of a task's first rows.
#include "batch_normalization.h"

#include <cstring>

#include "loops.h"
#include "stored.h"

namespace nnk::NNK_ISA {
namespace {

constexpr int64_t kTile = NormTasks::kTile;
constexpr int64_t kFirstRows = 8;

// `rows` x `channels` x `length` adjacent elements, from element `at` on; the first channel is lane `lane`.
struct Tile {
  int64_t at, lane, rows, channels, length;
  int64_t count() const { return rows * channels * length; }
};

// A task's place in the sums of lane 0 of its batch index.
struct Task {
  int64_t batch, chunk, row, end, channel, channels;

  Task(const NormFrame& f, const NormTasks& tasks, int64_t task) {
    channel = task % tasks.blocks * tasks.channels_each;
    channels = f.channels - channel < tasks.channels_each ? f.channels - channel : tasks.channels_each;
    chunk = task / tasks.blocks % tasks.chunks;
    batch = task / tasks.blocks / tasks.chunks;
    row = chunk * tasks.rows_each;
    end = f.rows - row < tasks.rows_each ? f.rows : row + tasks.rows_each;
  }
  double* sums(const NormJob& job) const {
    return job.sums + 2 * (chunk * job.frame.lanes() + batch * job.frame.channels + channel);
  }
};

// body(tile) for each tile of a task, row after row.
template <class Body>
void for_each_tile(const NormFrame& f, const Task& task, int64_t most, Body body) {
  const int64_t run = task.channels * f.inner, lane = task.batch * f.channels + task.channel;
  const auto at = [&](int64_t row) { return ((task.batch * f.rows + row) * f.channels + task.channel) * f.inner; };
  if (run > kTile) {
    for (int64_t row = task.row; row < task.end; ++row) {
      for (int64_t i = 0; i < f.inner; i += kTile) {
        body(Tile{at(row) + i, lane, 1, 1, f.inner - i < kTile ? f.inner - i : kTile});
      }
    }
    return;
  }
  int64_t step = task.channels == f.channels ? kTile / run : 1;
  if (step > most) step = most;
  for (int64_t row = task.row; row < task.end; row += step) {
    body(Tile{at(row), lane, task.end - row < step ? task.end - row : step, task.channels, f.inner});
  }
}

// body(a value of the stored type, task)
template <class Body>
void for_each_task(const NormJob& job, int64_t begin, int64_t end, Body body) {
  const NormTasks tasks(job.frame);
  for (; begin < end; ++begin) {
    const Task task(job.frame, tasks, begin);
    switch (job.scalar) {
      case Scalar::f64: body(double(), task); break;
      case Scalar::f32: body(float(), task); break;
      case Scalar::bf16: body(BFloat16(), task); break;
      case Scalar::f16: body(Half(), task); break;
    }
  }
}

template <class T>
struct Affine {
  const T *center, *scale, *shift, *along, *offset;
  Affine(const NormJob& job, int64_t lane)
      : center(of(job.center, lane)),
        scale(of(job.scale, lane)),
        shift(of(job.shift, lane)),
        along(of(job.along, lane)),
        offset(of(job.offset, lane)) {}
  static const T* of(const void* data, int64_t lane) { return data ? static_cast<const T*>(data) + lane : nullptr; }

  // z of x
  NNK_HD auto argument(int64_t c) const {
    const T m = center[c], a = scale[c], b = shift[c];
    return [=](T x, T) { return madd(x - m, a, b); };
  }
  // grad_x of dz, where the statistics are fixed
  NNK_HD auto scaled(int64_t c) const {
    const T a = scale[c];
    return [=](T dz, T) { return dz * a; };
  }
  // grad_x of dz and x
  NNK_HD auto gradient(int64_t c) const {
    const T m = center[c], a = scale[c], s = along[c], o = offset[c];
    return [=](T dz, T x) { return madd(dz, a, madd(x - m, s, o)); };
  }
};

// out[i] = f(x[i], y[i]), f being make(channel of i).
template <class T, class Make>
NNK_HD void by_channel(const Tile& tile, const T* x, const T* y, T* out, Make make) {
  if (tile.length == 1) {
    for (int64_t row = 0; row < tile.rows; ++row) {
      const int64_t first = row * tile.channels;
#pragma GCC ivdep
      for (int64_t c = 0; c < tile.channels; ++c) out[first + c] = make(c)(x[first + c], y[first + c]);
    }
    return;
  }
  for (int64_t row = 0; row < tile.rows; ++row) {
    for (int64_t c = 0; c < tile.channels; ++c, x += tile.length, y += tile.length, out += tile.length) {
      const auto f = make(c);
#pragma GCC ivdep
      for (int64_t i = 0; i < tile.length; ++i) out[i] = f(x[i], y[i]);
    }
  }
}

template <class T>
void add(const T* x, T* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] += x[i];
}

template <class S>
void apply(const NormJob& job, const Task& task) {
  using T = typename Stored<S>::T;
  alignas(64) T first[kTile], z[kTile];
  const Loop loop = forward_loop(job.activation, Stored<S>::arithmetic);
  for_each_tile(job.frame, task, kTile, [&](const Tile& tile) {
    const Affine<T> p(job, tile.lane);
    const T* x = read<S>(job.x, tile.at, first, tile.count());
    by_channel(tile, x, x, z, [&](int64_t c) { return p.argument(c); });
    if (job.residual) add(read<S>(job.residual, tile.at, first, tile.count()), z, tile.count());
    T* y = place<S>(job.y, tile.at, z);
    void* const data[] = {z, y};
    loop(job.a, job.b, data, tile.count());
    write<S>(y, job.y, tile.at, tile.count());
  });
}

// The sums of first(i) and second(i), in two halves, so that additions need not wait for each other.
template <class T, class First, class Second>
NNK_HD void add_up(int64_t count, double* to, First first, Second second) {
  const int64_t odd = count % 2, half = count / 2;
  T total = odd ? first(0) : T(0), other_total = 0, along = odd ? second(0) : T(0), other_along = 0;
#pragma omp simd reduction(+ : total, other_total, along, other_along)
  for (int64_t i = odd; i < odd + half; ++i) {
    total += first(i);
    other_total += first(half + i);
    along += second(i);
    other_along += second(half + i);
  }
  to[0] += total + other_total;
  to[1] += along + other_along;
}

template <class T>
T mean_of(const T* x, int64_t count) {
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < count; ++i) total += x[i];
  return total / T(count);
}

// Sums of x - shift and of its squares become the mean and the sum of squares about it.
void center(double shift, double count, double* sums) {
  const double off = sums[0] / count, about = sums[1] - off * sums[0];
  sums[0] = shift + off;
  sums[1] = about < 0 ? 0 : about;
}

// Adds the mean and squares of `count` values to those of `seen` values in `sums` (Chan, Golub & LeVeque 1979).
void merge(double seen, double count, const double* more, double* sums) {
  const double off = more[0] - sums[0], part = count / (seen + count);
  sums[0] += off * part;
  sums[1] += more[1] + off * off * (seen * part);
}

template <class S>
void moments_of_rows(const NormJob& job, const Task& task) {
  using T = typename Stored<S>::T;
  alignas(64) T first[kTile], shift[kTile];
  double* sums = task.sums(job);
  memset(sums, 0, 2 * sizeof(double) * task.channels);
  const auto squares = [](const T* x, int64_t count, T about, double* to) {
    add_up<T>(
        count, to, [&](int64_t i) { return x[i] - about; }, [&](int64_t i) { return (x[i] - about) * (x[i] - about); });
  };
  if (job.frame.inner > kTile) {  // so many that each tile has a shift of its own
    double seen = 0;
    for_each_tile(job.frame, task, 1, [&](const Tile& tile) {
      const T* x = read<S>(job.x, tile.at, first, tile.length);
      const T about = mean_of(x, tile.length);
      double more[2] = {0, 0};
      squares(x, tile.length, about, more);
      center(about, tile.length, more);
      merge(seen, tile.length, more, sums);
      seen += tile.length;
    });
    return;
  }
  bool starts = true;
  for_each_tile(job.frame, task, 1, [&](const Tile& tile) {
    const T* x = read<S>(job.x, tile.at, first, tile.count());
    for (int64_t c = 0; c < tile.channels; ++c) {
      const T* run = x + c * tile.length;
      if (starts) shift[c] = mean_of(run, tile.length);
      squares(run, tile.length, shift[c], sums + 2 * c);
    }
    starts = false;
  });
  const double count = static_cast<double>((task.end - task.row) * job.frame.inner);
  for (int64_t c = 0; c < task.channels; ++c) center(shift[c], count, sums + 2 * c);
}

template <class S>
void moments_of_columns(const NormJob& job, const Task& task) {
  using T = typename Stored<S>::T;
  alignas(64) T shift[kTile], total[kTile], squares[kTile], tile_of[kTile];
  const int64_t n = task.channels, rows = task.end - task.row, step = job.frame.channels;
  const int64_t at = (task.batch * job.frame.rows + task.row) * step + task.channel;
  const int64_t first_rows = rows < kFirstRows ? rows : kFirstRows;
  for (int64_t c = 0; c < n; ++c) shift[c] = total[c] = squares[c] = 0;
  for (int64_t row = 0; row < first_rows; ++row) add(read<S>(job.x, at + row * step, tile_of, n), shift, n);
  for (int64_t c = 0; c < n; ++c) shift[c] /= T(first_rows);
  for (int64_t row = 0; row < rows; ++row) {
    const T* x = read<S>(job.x, at + row * step, tile_of, n);
#pragma GCC ivdep
    for (int64_t c = 0; c < n; ++c) {
      const T d = x[c] - shift[c];
      total[c] += d;
      squares[c] = madd(d, d, squares[c]);
    }
  }
  double* sums = task.sums(job);
  for (int64_t c = 0; c < n; ++c) {
    sums[2 * c] = total[c];
    sums[2 * c + 1] = squares[c];
    center(shift[c], static_cast<double>(rows), sums + 2 * c);
  }
}

// dz = grad f'(z), where the job wants it, or in `tile_of`.
template <class S, class T>
T* slopes(const NormJob& job, const Tile& tile, const T* x, T* tile_of, T* scratch) {
  const Affine<T> p(job, tile.lane);
  const int64_t count = tile.count();
  T* z = tile_of;
  by_channel(tile, x, x, z, [&](int64_t c) { return p.argument(c); });
  if (job.residual) add(read<S>(job.residual, tile.at, scratch, count), z, count);
  const T* grad = read<S>(job.grad, tile.at, scratch, count);
  T* dz = job.dz ? static_cast<T*>(job.dz) + tile.at : z;
  void* const data[] = {const_cast<T*>(grad), z, dz};
  backward_loop(job.activation, Stored<S>::arithmetic)(job.a, job.b, data, count);
  return dz;
}

template <class S>
void sums(const NormJob& job, const Task& task) {
  using T = typename Stored<S>::T;
  alignas(64) T first[kTile], second[kTile], scratch[kTile], total[kTile], along[kTile];
  double* sums = task.sums(job);
  memset(sums, 0, 2 * sizeof(double) * task.channels);
  for (int64_t c = 0; c < task.channels; ++c) total[c] = along[c] = 0;
  for_each_tile(job.frame, task, kTile, [&](const Tile& tile) {
    const Affine<T> p(job, tile.lane);
    const int64_t count = tile.count();
    const T* x = read<S>(job.x, tile.at, first, count);
    T* dz = slopes<S>(job, tile, x, second, scratch);
    if (job.grad_residual) put<S>(dz, job.grad_residual, tile.at, count);
    const T *d = dz, *v = x;
    if (tile.length == 1) {
      for (int64_t row = 0; row < tile.rows; ++row, d += tile.channels, v += tile.channels) {
#pragma GCC ivdep
        for (int64_t c = 0; c < tile.channels; ++c) {
          total[c] += d[c];
          along[c] = madd(d[c], v[c] - p.center[c], along[c]);
        }
      }
    } else {
      for (int64_t row = 0; row < tile.rows; ++row) {
        for (int64_t c = 0; c < tile.channels; ++c, d += tile.length, v += tile.length) {
          add_up<T>(
              tile.length, sums + 2 * c, [&](int64_t i) { return d[i]; },
              [&](int64_t i) { return d[i] * (v[i] - p.center[c]); });
        }
      }
    }
    if (!job.dz && job.grad_x) {
      by_channel(tile, dz, dz, dz, [&](int64_t c) { return p.scaled(c); });
      put<S>(dz, job.grad_x, tile.at, count);
    }
  });
  for (int64_t c = 0; c < task.channels; ++c) sums[2 * c] += total[c], sums[2 * c + 1] += along[c];
}

template <class S>
void spread(const NormJob& job, const Task& task) {
  using T = typename Stored<S>::T;
  alignas(64) T first[kTile], second[kTile], scratch[kTile];
  for_each_tile(job.frame, task, kTile, [&](const Tile& tile) {
    const Affine<T> p(job, tile.lane);
    const T* x = read<S>(job.x, tile.at, first, tile.count());
    const T* dz = job.dz ? static_cast<const T*>(job.dz) + tile.at : slopes<S>(job, tile, x, second, scratch);
    T* out = place<S>(job.grad_x, tile.at, second);
    by_channel(tile, dz, x, out, [&](int64_t c) { return p.gradient(c); });
    write<S>(out, job.grad_x, tile.at, tile.count());
  });
}

}  // namespace

void norm_moments(const NormJob& job, int64_t begin, int64_t end) {
  for_each_task(job, begin, end, [&](auto one, const Task& task) {
    job.frame.inner == 1 ? moments_of_columns<decltype(one)>(job, task) : moments_of_rows<decltype(one)>(job, task);
  });
}

void norm_apply(const NormJob& job, int64_t begin, int64_t end) {
  for_each_task(job, begin, end, [&](auto one, const Task& task) { apply<decltype(one)>(job, task); });
}

void norm_sums(const NormJob& job, int64_t begin, int64_t end) {
  for_each_task(job, begin, end, [&](auto one, const Task& task) { sums<decltype(one)>(job, task); });
}

void norm_spread(const NormJob& job, int64_t begin, int64_t end) {
  for_each_task(job, begin, end, [&](auto one, const Task& task) { spread<decltype(one)>(job, task); });
}

}  // namespace nnk::NNK_ISA
