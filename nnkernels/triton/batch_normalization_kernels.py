"""Normalisation + activation + residual in passes over the data, and small kernels between them.

A tensor is `batch` x `rows` x `channels` x `inner` elements (`contracts.batch_normalization.Frame`). A program works on
tiles of rows, `row_stride` apart, and of adjacent elements: channels where `inner` is 1 (COLS), else the inner elements
of one channel. It leaves partial sums, which lie behind each other for each channel and are added up by one program for
each set of elements that is normalised together, in float64: the order never depends on the machine.

A sum of squares is taken about the mean of the program's first tile. If that is a share f of what the program sees,
their distance is at most sqrt((1 - f) / f) standard deviations, so that few bits cancel however great the mean is.
"""

import triton
import triton.language as tl

from .math import rounded_quotient
from .tiles import store, times


@triton.jit
def _program(
    rows, channels, inner, row_steps, col_steps, COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr, LAST_FIRST: tl.constexpr,
):  # fmt: skip
    """This program's batch index, first row, first column, channel, and the number of its share of the channel.

    LAST_FIRST: from the end of the tensor, which the pass before has left in the cache.
    """
    program = tl.program_id(0)
    if LAST_FIRST:
        program = tl.num_programs(0) - 1 - program
    col_chunks = tl.cdiv(channels if COLS else inner, BLOCK_COLS * col_steps)
    row_chunks = tl.cdiv(rows, BLOCK_ROWS * row_steps)
    lanes = 1 if COLS else channels
    col_chunk = program % col_chunks
    rest = program // col_chunks
    lane = rest % lanes
    rest = rest // lanes
    row_chunk = rest % row_chunks
    chunk = row_chunk if COLS else row_chunk * col_chunks + col_chunk
    first_row = row_chunk * (BLOCK_ROWS * row_steps)
    first_col = col_chunk * (BLOCK_COLS * col_steps)
    return rest // row_chunks, first_row, first_col, lane, chunk


@triton.jit
def _tile(
    batch, row, col, lane, outer, step, rows, channels, inner, row_stride, COLS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """The places of one of a program's tiles, its mask, whether it is full, and its rows and columns.

    A program's tiles lie in `outer` lines of steps: down the rows if COLS, else along the columns.
    """
    row += (step if COLS else outer) * BLOCK_ROWS
    col += (outer if COLS else step) * BLOCK_COLS
    rows_left = tl.minimum(rows - row, BLOCK_ROWS)
    cols_left = tl.minimum((channels if COLS else inner) - col, BLOCK_COLS)
    first = (batch.to(tl.int64) * rows + row) * row_stride + lane.to(tl.int64) * inner + col
    down = tl.arange(0, BLOCK_ROWS)[:, None]
    along = tl.arange(0, BLOCK_COLS)[None, :]
    at = first + down.to(tl.int64) * row_stride + along
    full = (rows_left == BLOCK_ROWS) & (cols_left == BLOCK_COLS)
    return at, (down < rows_left) & (along < cols_left), full, rows_left, cols_left


@triton.jit
def load_or_zero(pointers, mask, full, COMPUTE: tl.constexpr, EVEN: tl.constexpr):
    """0 where the mask is off. EVEN: the mask never splits a vector."""
    if EVEN:
        x = tl.load(pointers, mask=mask, other=0.0)
    elif full:
        x = tl.load(pointers)
    else:
        x = tl.load(pointers, mask=mask, other=0.0)
    return x.to(COMPUTE)


@triton.jit
def _channels(first_col, lane, channels, COLS: tl.constexpr, BLOCK_COLS: tl.constexpr):
    """A tile's channels in a shape that broadcasts to it, and which of them there are."""
    if COLS:
        channel = first_col + tl.arange(0, BLOCK_COLS)[None, :]
        return channel, channel < channels
    else:
        channel = lane + tl.zeros([1, 1], tl.int32)
        return channel, channel < channels


@triton.jit
def _parameters(
    statistics_ptr, weight_ptr, bias_ptr, sets, batch, channel, there, channels, group, COMPUTE: tl.constexpr
):  # fmt: skip
    """center, low, rstd, weight rstd and the shift of z = (x - center) scale + shift"""
    of = statistics_ptr + (batch * channels + channel) // group
    center = tl.load(of + sets, mask=there, other=0.0)
    low = tl.load(of + 2 * sets, mask=there, other=0.0)
    rstd = tl.load(of + 3 * sets, mask=there, other=0.0)
    scale = rstd
    if weight_ptr is not None:
        scale = rstd * tl.load(weight_ptr + channel, mask=there, other=0.0).to(COMPUTE)
    shift = -low * scale
    if bias_ptr is not None:
        shift += tl.load(bias_ptr + channel, mask=there, other=0.0).to(COMPUTE)
    return center, low, rstd, scale, shift


@triton.jit(do_not_specialize=["lanes", "chunks"])
def moments(
    x_ptr, partial_ptr, lanes, rows, channels, inner, row_stride, row_steps, col_steps, chunks, COLS: tl.constexpr,
    EVEN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Each program's count, shift, mean less shift, and sum of squares about the mean: [4, lanes, chunks]."""
    COMPUTE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty.primitive_bitwidth == 64 else tl.float32
    batch, first_row, first_col, lane, chunk = _program(
        rows, channels, inner, row_steps, col_steps, COLS, BLOCK_ROWS, BLOCK_COLS, False
    )
    at, mask, full, rows_left, cols_left = _tile(
        batch, first_row, first_col, lane, 0, 0, rows, channels, inner, row_stride, COLS, BLOCK_ROWS, BLOCK_COLS
    )
    x = load_or_zero(x_ptr + at, mask, full, COMPUTE, EVEN)
    rows_here = tl.minimum(rows - first_row, BLOCK_ROWS * row_steps)
    if COLS:
        shift = rounded_quotient(tl.sum(x, 0, keep_dims=True), rows_left)
        count = rows_here.to(COMPUTE)
    else:
        shift = rounded_quotient(tl.sum(tl.sum(x, 1, keep_dims=True), 0, keep_dims=True), rows_left * cols_left)
        count = rows_here.to(COMPUTE) * tl.minimum(inner - first_col, BLOCK_COLS * col_steps)
    total = tl.zeros([BLOCK_ROWS, BLOCK_COLS], COMPUTE)
    squares = tl.zeros([BLOCK_ROWS, BLOCK_COLS], COMPUTE)
    for outer in range(col_steps if COLS else row_steps):
        for step in tl.range(0, row_steps if COLS else col_steps, num_stages=STAGES):
            at, mask, full, _rows, _cols = _tile(
                batch, first_row, first_col, lane, outer, step, rows, channels, inner, row_stride, COLS, BLOCK_ROWS,
                BLOCK_COLS,
            )  # fmt: skip
            off = load_or_zero(x_ptr + at, mask, full, COMPUTE, EVEN) - shift
            if not full:
                off = tl.where(mask, off, 0.0)
            total += off
            squares += off * off
    total, squares = tl.sum(total, 0, keep_dims=True), tl.sum(squares, 0, keep_dims=True)
    if not COLS:
        total, squares = tl.sum(total, 1, keep_dims=True), tl.sum(squares, 1, keep_dims=True)
    mean = total / count
    squares -= total * mean
    channel, there = _channels(first_col, lane, channels, COLS, BLOCK_COLS)
    out = partial_ptr + (batch * channels + channel).to(tl.int64) * chunks + chunk
    plane = lanes.to(tl.int64) * chunks
    tl.store(out, tl.zeros_like(shift) + count, mask=there)
    tl.store(out + plane, shift, mask=there)
    tl.store(out + 2 * plane, mean, mask=there)
    tl.store(out + 3 * plane, tl.where(squares < 0, 0.0, squares), mask=there)


@triton.jit
def move(pointer, found, momentum, mask):
    """A running statistic towards the one found, in float64."""
    kept = tl.load(pointer, mask=mask, other=0.0).to(tl.float64)
    kept += momentum * (found - kept)
    if pointer.dtype.element_ty.primitive_bitwidth < 64:
        kept = kept.to(tl.float32)
    tl.store(pointer, kept.to(pointer.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["sets", "length"])
def merge(
    partial_ptr, statistics_ptr, mean_ptr, var_ptr, momentum: tl.float64, eps: tl.float64, sets, length,
    RAW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One set's statistics from its `length` partial ones (Chan, Golub & LeVeque 1979); moves the running ones.

    RAW: the sum of squares about the mean instead of 1 / the standard deviation.
    """
    number = tl.program_id(0)
    plane = sets.to(tl.int64) * length
    first = partial_ptr + number.to(tl.int64) * length
    counts = tl.zeros([BLOCK], tl.float64)
    means = tl.zeros([BLOCK], tl.float64)
    for start in range(0, length, BLOCK):
        at = start + tl.arange(0, BLOCK)
        count = tl.load(first + at, mask=at < length, other=0.0).to(tl.float64)
        shift = tl.load(first + plane + at, mask=at < length, other=0.0).to(tl.float64)
        counts += count
        means += count * (shift + tl.load(first + 2 * plane + at, mask=at < length, other=0.0))
    count = tl.sum(counts, 0)
    mean = tl.sum(means, 0) / count
    squares = tl.zeros([BLOCK], tl.float64)
    for start in range(0, length, BLOCK):
        at = start + tl.arange(0, BLOCK)
        weight = tl.load(first + at, mask=at < length, other=0.0).to(tl.float64)
        shift = tl.load(first + plane + at, mask=at < length, other=0.0).to(tl.float64)
        away = shift + tl.load(first + 2 * plane + at, mask=at < length, other=0.0) - mean
        squares += tl.load(first + 3 * plane + at, mask=at < length, other=0.0)
        squares += tl.where(at < length, weight * away * away, 0.0)
    total = tl.sum(squares, 0)
    center = mean.to(statistics_ptr.dtype.element_ty)
    out = statistics_ptr + number
    tl.store(out, count)
    tl.store(out + sets, center)
    tl.store(out + 2 * sets, mean - center)
    tl.store(out + 3 * sets, total if RAW else 1 / tl.sqrt(total / count + eps))
    if mean_ptr is not None:
        move(mean_ptr + number, mean, momentum, True)
        move(var_ptr + number, total / (count - 1), momentum, True)


@triton.jit(do_not_specialize=["sets"])
def fixed(mean_ptr, var_ptr, statistics_ptr, eps: tl.float64, sets, BLOCK: tl.constexpr):
    """Statistics from the running ones."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mean = tl.load(mean_ptr + at, mask=at < sets, other=0.0).to(tl.float64)
    var = tl.load(var_ptr + at, mask=at < sets, other=1.0).to(tl.float64)
    center = mean.to(statistics_ptr.dtype.element_ty)
    tl.store(statistics_ptr + at, tl.full([BLOCK], 1.0, statistics_ptr.dtype.element_ty), mask=at < sets)
    tl.store(statistics_ptr + sets + at, center, mask=at < sets)
    tl.store(statistics_ptr + 2 * sets + at, mean - center, mask=at < sets)
    tl.store(statistics_ptr + 3 * sets + at, 1 / tl.sqrt(var + eps), mask=at < sets)


@triton.jit(do_not_specialize=["sets"])
def apply(
    x_ptr, residual_ptr, weight_ptr, bias_ptr, statistics_ptr, y_ptr, a: tl.float64, b: tl.float64, sets, rows,
    channels, inner, group, row_stride, row_steps, col_steps, VALUE: tl.constexpr, COLS: tl.constexpr,
    EVEN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """y = f((x - mean) rstd weight + bias + residual)"""
    FAST: tl.constexpr = x_ptr.dtype.element_ty.primitive_bitwidth == 16
    COMPUTE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty.primitive_bitwidth == 64 else tl.float32
    batch, first_row, first_col, lane, _chunk = _program(
        rows, channels, inner, row_steps, col_steps, COLS, BLOCK_ROWS, BLOCK_COLS, True
    )
    channel, there = _channels(first_col, lane, channels, COLS, BLOCK_COLS)
    center, _low, _rstd, scale, shift = _parameters(
        statistics_ptr, weight_ptr, bias_ptr, sets, batch, channel, there, channels, group, COMPUTE
    )
    a, b = tl.full((), a, COMPUTE), tl.full((), b, COMPUTE)
    for outer in range(col_steps if COLS else row_steps):
        for step in tl.range(0, row_steps if COLS else col_steps, num_stages=STAGES):
            at, mask, full, _rows, _cols = _tile(
                batch, first_row, first_col, lane, outer, step, rows, channels, inner, row_stride, COLS, BLOCK_ROWS,
                BLOCK_COLS,
            )  # fmt: skip
            z = (load_or_zero(x_ptr + at, mask, full, COMPUTE, EVEN) - center) * scale + shift
            if residual_ptr is not None:
                z += load_or_zero(residual_ptr + at, mask, full, COMPUTE, EVEN)
            store(y_ptr + at, VALUE(z, a, b, FAST), mask, full, EVEN)


@triton.jit(do_not_specialize=["sets", "lanes", "chunks"])
def sums(
    grad_ptr, x_ptr, residual_ptr, weight_ptr, bias_ptr, statistics_ptr, partial_ptr, grad_x_ptr, grad_residual_ptr,
    a: tl.float64, b: tl.float64, sets, lanes, rows, channels, inner, group, row_stride, row_steps, col_steps, chunks,
    D1: tl.constexpr, MASKS: tl.constexpr, COLS: tl.constexpr, EVEN: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Each program's sums of dz = grad f'(z) and of dz (x - center), [2, lanes, chunks].

    With `grad_x_ptr` also the gradients, which do not depend on the sums if the statistics are fixed.
    """
    FAST: tl.constexpr = x_ptr.dtype.element_ty.primitive_bitwidth == 16
    COMPUTE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty.primitive_bitwidth == 64 else tl.float32
    batch, first_row, first_col, lane, chunk = _program(
        rows, channels, inner, row_steps, col_steps, COLS, BLOCK_ROWS, BLOCK_COLS, False
    )
    channel, there = _channels(first_col, lane, channels, COLS, BLOCK_COLS)
    center, _low, _rstd, scale, shift = _parameters(
        statistics_ptr, weight_ptr, bias_ptr, sets, batch, channel, there, channels, group, COMPUTE
    )
    a, b = tl.full((), a, COMPUTE), tl.full((), b, COMPUTE)
    total = tl.zeros([BLOCK_ROWS, BLOCK_COLS], COMPUTE)
    along = tl.zeros([BLOCK_ROWS, BLOCK_COLS], COMPUTE)
    for outer in range(col_steps if COLS else row_steps):
        for step in tl.range(0, row_steps if COLS else col_steps, num_stages=STAGES):
            at, mask, full, _rows, _cols = _tile(
                batch, first_row, first_col, lane, outer, step, rows, channels, inner, row_stride, COLS, BLOCK_ROWS,
                BLOCK_COLS,
            )  # fmt: skip
            dz = load_or_zero(grad_ptr + at, mask, full, COMPUTE, EVEN)
            away = load_or_zero(x_ptr + at, mask, full, COMPUTE, EVEN) - center
            z = away * scale + shift
            if residual_ptr is not None:
                z += load_or_zero(residual_ptr + at, mask, full, COMPUTE, EVEN)
            dz = times(dz, D1(z, a, b, FAST), MASKS)
            if grad_x_ptr is not None:
                store(grad_x_ptr + at, dz * scale, mask, full, EVEN)
            if grad_residual_ptr is not None:
                store(grad_residual_ptr + at, dz, mask, full, EVEN)
            if partial_ptr is not None:
                if not full:
                    dz = tl.where(mask, dz, 0.0)
                    away = tl.where(mask, away, 0.0)
                total += dz
                along += dz * away
    if partial_ptr is not None:
        total, along = tl.sum(total, 0, keep_dims=True), tl.sum(along, 0, keep_dims=True)
        if not COLS:
            total, along = tl.sum(total, 1, keep_dims=True), tl.sum(along, 1, keep_dims=True)
        out = partial_ptr + (batch * channels + channel).to(tl.int64) * chunks + chunk
        tl.store(out, total, mask=there)
        tl.store(out + lanes.to(tl.int64) * chunks, along, mask=there)


@triton.jit(do_not_specialize=["sets", "lanes", "chunks"])
def add_up(
    partial_ptr, statistics_ptr, weight_ptr, sums_ptr, totals_ptr, sets, lanes, channels, group, chunks,
    BLOCK_GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """For each of a set's channels the sums of dz and of dz times the normalised value, [2, lanes], and for the set the
    same, each channel's times its weight, [2, sets]."""
    number = tl.program_id(0)
    low = tl.load(statistics_ptr + 2 * sets + number).to(tl.float64)
    rstd = tl.load(statistics_ptr + 3 * sets + number).to(tl.float64)
    plane = lanes.to(tl.int64) * chunks
    for_mean = tl.zeros([BLOCK_GROUP, 1], tl.float64)
    for_spread = tl.zeros([BLOCK_GROUP, 1], tl.float64)
    for first in range(0, group, BLOCK_GROUP):
        of = first + tl.arange(0, BLOCK_GROUP)[:, None]
        lane = number * group + of
        total = tl.zeros([BLOCK_GROUP, BLOCK], tl.float64)
        along = tl.zeros([BLOCK_GROUP, BLOCK], tl.float64)
        for start in range(0, chunks, BLOCK):
            chunk = start + tl.arange(0, BLOCK)[None, :]
            at = lane.to(tl.int64) * chunks + chunk
            there = (of < group) & (chunk < chunks)
            total += tl.load(partial_ptr + at, mask=there, other=0.0)
            along += tl.load(partial_ptr + plane + at, mask=there, other=0.0)
        total = tl.sum(total, 1, keep_dims=True)
        along = rstd * (tl.sum(along, 1, keep_dims=True) - low * total)
        tl.store(sums_ptr + lane, total, mask=of < group)
        tl.store(sums_ptr + lanes + lane, along, mask=of < group)
        if weight_ptr is not None:
            weight = tl.load(weight_ptr + lane % channels, mask=of < group, other=0.0)
            total *= weight
            along *= weight
        for_mean += tl.where(of < group, total, 0.0)
        for_spread += tl.where(of < group, along, 0.0)
    tl.store(totals_ptr + number, tl.sum(tl.sum(for_mean, 1), 0))
    tl.store(totals_ptr + sets + number, tl.sum(tl.sum(for_spread, 1), 0))


@triton.jit(do_not_specialize=["sets"])
def spread(
    grad_ptr, x_ptr, residual_ptr, weight_ptr, bias_ptr, statistics_ptr, totals_ptr, grad_x_ptr, grad_residual_ptr,
    a: tl.float64, b: tl.float64, sets, rows, channels, inner, group, row_stride, row_steps, col_steps,
    D1: tl.constexpr, MASKS: tl.constexpr, COLS: tl.constexpr, EVEN: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """grad_x = rstd (weight dz - (sum of weight dz + normal * sum of weight dz normal) / count), dz = grad f'(z)"""
    FAST: tl.constexpr = x_ptr.dtype.element_ty.primitive_bitwidth == 16
    COMPUTE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty.primitive_bitwidth == 64 else tl.float32
    batch, first_row, first_col, lane, _chunk = _program(
        rows, channels, inner, row_steps, col_steps, COLS, BLOCK_ROWS, BLOCK_COLS, True
    )
    channel, there = _channels(first_col, lane, channels, COLS, BLOCK_COLS)
    center, low, rstd, scale, shift = _parameters(
        statistics_ptr, weight_ptr, bias_ptr, sets, batch, channel, there, channels, group, COMPUTE
    )
    number = (batch * channels + channel) // group
    factor = rstd / tl.load(statistics_ptr + number, mask=there, other=1.0)
    along = -factor * rstd * tl.load(totals_ptr + sets + number, mask=there, other=0.0)
    offset = -factor * tl.load(totals_ptr + number, mask=there, other=0.0) - along * low
    a, b = tl.full((), a, COMPUTE), tl.full((), b, COMPUTE)
    for outer in range(col_steps if COLS else row_steps):
        for step in tl.range(0, row_steps if COLS else col_steps, num_stages=STAGES):
            at, mask, full, _rows, _cols = _tile(
                batch, first_row, first_col, lane, outer, step, rows, channels, inner, row_stride, COLS, BLOCK_ROWS,
                BLOCK_COLS,
            )  # fmt: skip
            dz = load_or_zero(grad_ptr + at, mask, full, COMPUTE, EVEN)
            away = load_or_zero(x_ptr + at, mask, full, COMPUTE, EVEN) - center
            z = away * scale + shift
            if residual_ptr is not None:
                z += load_or_zero(residual_ptr + at, mask, full, COMPUTE, EVEN)
            dz = times(dz, D1(z, a, b, FAST), MASKS)
            store(grad_x_ptr + at, dz * scale + (away * along + offset), mask, full, EVEN)
            if grad_residual_ptr is not None:
                store(grad_residual_ptr + at, dz, mask, full, EVEN)
