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
};

// out[i] = f(channel of i, x[i], y[i])
template <class T, class Function>
NNK_HD void by_channel(const Tile& tile, const T* x, const T* y, T* out, Function f) {
  if (tile.length == 1) {
    for (int64_t row = 0; row < tile.rows; ++row) {
      const int64_t first = row * tile.channels;
#pragma GCC ivdep
      for (int64_t c = 0; c < tile.channels; ++c) out[first + c] = f(c, x[first + c], y[first + c]);
    }
    return;
  }
  int64_t first = 0;
  for (int64_t row = 0; row < tile.rows; ++row) {
    for (int64_t c = 0; c < tile.channels; ++c, first += tile.length) {
#pragma GCC ivdep
      for (int64_t i = first; i < first + tile.length; ++i) out[i] = f(c, x[i], y[i]);
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
    by_channel(tile, x, x, z, [&](int64_t c, T v, T) { return madd(v - p.center[c], p.scale[c], p.shift[c]); });
    if (job.residual) add(read<S>(job.residual, tile.at, first, tile.count()), z, tile.count());
    T* y = place<S>(job.y, tile.at, z);
    void* const data[] = {z, y};
    loop(job.a, job.b, data, tile.count());
    write<S>(y, job.y, tile.at, tile.count());
  });
}

// Adds `count` values of mean and `squares` to `seen` values' `sums` (Chan, Golub & LeVeque 1979).
void merge(double* sums, double seen, double count, double mean, double squares) {
  const double off = mean - sums[0], part = count / (seen + count);
  sums[0] += off * part;
  sums[1] += squares + off * off * (seen * part);
}

template <class S>
void moments_of_rows(const NormJob& job, const Task& task) {
  using T = typename Stored<S>::T;
  alignas(64) T first[kTile];
  double* sums = task.sums(job);
  memset(sums, 0, 2 * sizeof(double) * task.channels);
  double seen = 0;
  for_each_tile(job.frame, task, 1, [&](const Tile& tile) {
    const T* x = read<S>(job.x, tile.at, first, tile.count());
    for (int64_t c = 0; c < tile.channels; ++c, x += tile.length) {
      T total = 0, squares = 0, off = 0;
#pragma omp simd reduction(+ : total)
      for (int64_t i = 0; i < tile.length; ++i) total += x[i];
      const T mean = total / T(tile.length);
#pragma omp simd reduction(+ : squares, off)
      for (int64_t i = 0; i < tile.length; ++i) {
        const T d = x[i] - mean;
        off += d;
        squares = madd(d, d, squares);
      }
      const double exact = double(mean) + double(off) / tile.length;
      merge(sums + 2 * c, seen, tile.length, exact, squares - double(off) * off / tile.length);
    }
    seen += tile.length;
  });
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
    const double off = double(total[c]) / rows, about = squares[c] - off * total[c];
    sums[2 * c] = shift[c] + off;
    sums[2 * c + 1] = about < 0 ? 0 : about;
  }
}

// dz = grad f'(z), and x - center.
template <class S, class T>
void slopes(const NormJob& job, const Tile& tile, const T* x, T* dz, T* away, T* scratch) {
  const Affine<T> p(job, tile.lane);
  const int64_t count = tile.count();
  by_channel(tile, x, x, away, [&](int64_t c, T v, T) { return v - p.center[c]; });
  by_channel(tile, away, away, dz, [&](int64_t c, T v, T) { return madd(v, p.scale[c], p.shift[c]); });
  if (job.residual) add(read<S>(job.residual, tile.at, scratch, count), dz, count);
  const T* grad = read<S>(job.grad, tile.at, scratch, count);
  void* const data[] = {const_cast<T*>(grad), dz, dz};
  backward_loop(job.activation, Stored<S>::arithmetic)(job.a, job.b, data, count);
}

template <class S>
void sums(const NormJob& job, const Task& task) {
  using T = typename Stored<S>::T;
  alignas(64) T first[kTile], dz[kTile], away[kTile], total[kTile], along[kTile];
  double* sums = task.sums(job);
  memset(sums, 0, 2 * sizeof(double) * task.channels);
  for (int64_t c = 0; c < task.channels; ++c) total[c] = along[c] = 0;
  for_each_tile(job.frame, task, kTile, [&](const Tile& tile) {
    const int64_t count = tile.count();
    slopes<S>(job, tile, read<S>(job.x, tile.at, first, count), dz, away, first);
    if (job.frame.inner == 1) {
      for (int64_t row = 0; row < tile.rows; ++row) {
        const T *d = dz + row * tile.channels, *v = away + row * tile.channels;
#pragma GCC ivdep
        for (int64_t c = 0; c < tile.channels; ++c) {
          total[c] += d[c];
          along[c] = madd(d[c], v[c], along[c]);
        }
      }
    } else {
      for (int64_t run = 0; run < tile.rows * tile.channels; ++run) {
        const T *d = dz + run * tile.length, *v = away + run * tile.length;
        T run_total = 0, run_along = 0;
#pragma omp simd reduction(+ : run_total, run_along)
        for (int64_t i = 0; i < tile.length; ++i) {
          run_total += d[i];
          run_along = madd(d[i], v[i], run_along);
        }
        double* lane = sums + 2 * (run % tile.channels);
        lane[0] += run_total;
        lane[1] += run_along;
      }
    }
    if (job.grad_residual) put<S>(dz, job.grad_residual, tile.at, count);
    if (job.fixed) {
      const Affine<T> p(job, tile.lane);
      by_channel(tile, dz, dz, dz, [&](int64_t c, T v, T) { return v * p.scale[c]; });
      put<S>(dz, job.grad_x, tile.at, count);
    } else if (sizeof(S) == sizeof(T)) {
      put<S>(dz, job.grad_x, tile.at, count);
    }
  });
  if (job.frame.inner == 1) {
    for (int64_t c = 0; c < task.channels; ++c) sums[2 * c] = total[c], sums[2 * c + 1] = along[c];
  }
}

// Where grad_x has the computing type, it holds dz.
template <class S>
void spread(const NormJob& job, const Task& task) {
  using T = typename Stored<S>::T;
  alignas(64) T first[kTile], dz[kTile], away[kTile];
  for_each_tile(job.frame, task, kTile, [&](const Tile& tile) {
    const Affine<T> p(job, tile.lane);
    const T* x = read<S>(job.x, tile.at, first, tile.count());
    if constexpr (sizeof(S) == sizeof(T)) {
      T* out = static_cast<T*>(job.grad_x) + tile.at;
      by_channel(tile, out, x, out, [&](int64_t c, T slope, T v) {
        return madd(slope, p.scale[c], madd(v - p.center[c], p.along[c], p.offset[c]));
      });
    } else {
      slopes<S>(job, tile, x, dz, away, first);
      by_channel(tile, dz, away, dz, [&](int64_t c, T slope, T v) {
        return madd(slope, p.scale[c], madd(v, p.along[c], p.offset[c]));
      });
      write<S>(dz, job.grad_x, tile.at, tile.count());
    }
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
