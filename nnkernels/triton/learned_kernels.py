"""Kernels of the activations with learned parameters: a forward, a backward and a small one that adds partial sums up.

Elements lie in one of two ways. In runs, each program works on one channel: its elements are `outer` runs of `inner`
adjacent ones, cut into vectors of VECTOR elements, which lie in one thread, so that each thread adds up its own sums
without a word to the others until its program ends. In columns, the elements of a row belong to different channels:
column j to channel j % channels. A thread keeps its columns for all of its program's rows.

What adds nothing up need not keep to one channel: where all elements are adjacent, a program takes a tile of them, and
PER neighbours, which belong to one channel, look their parameters up. Memory is then walked in its order.

The formulas stand in `learned_formulas.py`.
"""

import triton
import triton.language as tl

from .packing import pack, unpack
from .tiles import load, store


@triton.jit
def _numbers(a_ptr, b_ptr, c_ptr, at, step, COUNT: tl.constexpr, SEGMENTS: tl.constexpr, COMPUTE: tl.constexpr):
    """The parameters of channel `at`: COUNT tensors' one after the other, of each SEGMENTS."""
    found = ()
    for k in tl.static_range(COUNT * SEGMENTS):
        pointer = a_ptr if k < SEGMENTS else b_ptr if k < 2 * SEGMENTS else c_ptr
        found = found + (tl.load(pointer + k % SEGMENTS * step + at).to(COMPUTE),)
    return found


@triton.jit
def _either(first, then, beyond):
    """The parameters `then` where `beyond` is set, else `first`: both are scalars, loaded once."""
    found = ()
    for k in tl.static_range(len(first)):
        found = found + (tl.where(beyond, then[k], first[k]),)
    return found


@triton.jit
def _constants(first, second, COMPUTE: tl.constexpr):
    return tl.full((), first, COMPUTE), tl.full((), second, COMPUTE)


@triton.jit
def _run(
    first,
    total,
    inner,
    FLAT: tl.constexpr,
    WIDE: tl.constexpr,
    VECTORS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """The vectors of a channel from its element `first` on: the run's number, elements within the run, mask."""
    step = tl.arange(0, VECTORS)[:, None] * VECTOR
    lane = tl.arange(0, VECTOR)[None, :]
    if FLAT:
        left = tl.minimum(total - first, VECTORS * VECTOR).to(tl.int32)
        return step * 0, first + step + lane, step + lane < left
    else:
        if WIDE:
            at = first.to(tl.int64) + step
            run = at // inner
        else:
            at = first.to(tl.int32) + step
            run = (at.to(tl.uint32) // inner.to(tl.uint32)).to(tl.int32)
        return run.to(tl.int64), at - run * inner + lane, (at < total) & (lane < VECTOR)


@triton.jit
def forward_runs(
    x_ptr,
    y_ptr,
    a_ptr,
    b_ptr,
    c_ptr,
    first_constant: tl.float64,
    second_constant: tl.float64,
    total,
    inner,
    channels,
    parameters,
    x_outer,
    y_outer,
    x_channel,
    y_channel,
    VALUE: tl.constexpr,
    COUNT: tl.constexpr,
    SEGMENTS: tl.constexpr,
    FLAT: tl.constexpr,
    WIDE: tl.constexpr,
    VECTORS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """y = f(x) for one tile of a channel of `total` elements."""
    FAST: tl.constexpr = x_ptr.dtype.element_ty.primitive_bitwidth == 16
    COMPUTE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    program = tl.program_id(0)
    channel = (program % channels).to(tl.int64)
    p = _numbers(a_ptr, b_ptr, c_ptr, channel, parameters, COUNT, SEGMENTS, COMPUTE)
    c = _constants(first_constant, second_constant, COMPUTE)
    first = (program // channels).to(tl.int64) * (VECTORS * VECTOR)
    run, at, mask = _run(first, total, inner, FLAT, WIDE, VECTORS, VECTOR)
    x = tl.load(x_ptr + channel * x_channel + run * x_outer + at, mask=mask).to(COMPUTE)
    y = VALUE(x, p, c, FAST).to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + channel * y_channel + run * y_outer + at, y, mask=mask)


@triton.jit
def backward_runs(
    grad_ptr,
    x_ptr,
    grad_x_ptr,
    a_ptr,
    b_ptr,
    c_ptr,
    partial_ptr,
    first_constant: tl.float64,
    second_constant: tl.float64,
    total,
    inner,
    channels,
    parameters,
    grad_outer,
    x_outer,
    grad_x_outer,
    grad_channel,
    x_channel,
    grad_x_channel,
    chunks,
    tiles,
    GRADIENT: tl.constexpr,
    SHARES: tl.constexpr,
    SUMS: tl.constexpr,
    COUNT: tl.constexpr,
    SEGMENTS: tl.constexpr,
    FLAT: tl.constexpr,
    WIDE: tl.constexpr,
    VECTORS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """The gradient for x, and SUMS partial sums [sum][chunk][channel] of `tiles` tiles of a channel."""
    FAST: tl.constexpr = x_ptr.dtype.element_ty.primitive_bitwidth == 16
    COMPUTE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    program = tl.program_id(0)
    channel = (program % channels).to(tl.int64)
    chunk = program // channels
    p = _numbers(a_ptr, b_ptr, c_ptr, channel, parameters, COUNT, SEGMENTS, COMPUTE)
    c = _constants(first_constant, second_constant, COMPUTE)
    grad_ptr += channel * grad_channel
    x_ptr += channel * x_channel
    grad_x_ptr += channel * grad_x_channel
    sums = ()
    for k in tl.static_range(SUMS):
        sums = sums + (tl.zeros((VECTORS,), COMPUTE),)
    first = chunk.to(tl.int64) * tiles * (VECTORS * VECTOR)
    for _ in range(tiles):
        run, at, mask = _run(first, total, inner, FLAT, WIDE, VECTORS, VECTOR)
        x = tl.load(x_ptr + run * x_outer + at, mask=mask, other=0.0).to(COMPUTE)
        grad = tl.load(grad_ptr + run * grad_outer + at, mask=mask, other=0.0).to(COMPUTE)
        grad_x = GRADIENT(grad, x, p, c, FAST).to(grad_x_ptr.dtype.element_ty)
        tl.store(grad_x_ptr + run * grad_x_outer + at, grad_x, mask=mask)
        if SUMS > 0:
            shares = SHARES(grad, x, p, c, FAST)
            more = ()
            for k in tl.static_range(SUMS):
                more = more + (sums[k] + tl.sum(shares[k], axis=1),)
            sums = more
        first += VECTORS * VECTOR
    for k in tl.static_range(SUMS):
        tl.store(partial_ptr + (k * chunks + chunk).to(tl.int64) * channels + channel, tl.sum(sums[k], axis=0))


@triton.jit
def _run_of(first, inner, channels, WIDE: tl.constexpr, COUNT: tl.constexpr, PER: tl.constexpr):
    """The channel of element `first`, where in its run of `inner` COUNT pieces of PER elements begin, and `inner`."""
    NUMBER: tl.constexpr = tl.uint64 if WIDE else tl.uint32
    first, inner = first.to(NUMBER), tl.full((), inner, NUMBER)  # 1 is a constant, which has no type
    run = first // inner
    at = first - run * inner + tl.arange(0, COUNT)[:, None].to(NUMBER) * PER
    return (run % tl.full((), channels, NUMBER)).to(tl.int32), at, inner


@triton.jit
def _channels(first, inner, channels, WIDE: tl.constexpr, WRAPS: tl.constexpr, COUNT: tl.constexpr, PER: tl.constexpr):
    """The channels of COUNT pieces of PER elements from element `first` on; WRAPS: they may go round more than once."""
    channel, at, inner = _run_of(first, inner, channels, WIDE, COUNT, PER)
    channel += (at // inner).to(tl.int32)
    if WRAPS:
        return channel % channels
    else:
        return tl.where(channel >= channels, channel - channels, channel)


@triton.jit
def forward_flat(
    x_ptr,
    y_ptr,
    a_ptr,
    b_ptr,
    c_ptr,
    first_constant: tl.float64,
    second_constant: tl.float64,
    total,
    inner,
    channels,
    VALUE: tl.constexpr,
    COUNT: tl.constexpr,
    SEGMENTS: tl.constexpr,
    LONG: tl.constexpr,
    WIDE: tl.constexpr,
    WRAPS: tl.constexpr,
    TILE: tl.constexpr,
    PER: tl.constexpr,
):
    """y = f(x) for one tile of `total` adjacent elements; LONG: runs are no shorter, so that it meets two of them."""
    FAST: tl.constexpr = x_ptr.dtype.element_ty.primitive_bitwidth == 16
    COMPUTE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    first = tl.program_id(0).to(tl.int64) * TILE
    left = tl.minimum(total - first, TILE).to(tl.int32)
    at = tl.arange(0, TILE)
    x = load(x_ptr + first + at, at < left, left == TILE, COMPUTE, False)
    if LONG:
        channel, place, run_length = _run_of(first, inner, channels, WIDE, TILE // PER, PER)
        then = tl.where(channel + 1 == channels, 0, channel + 1)
        p = _numbers(a_ptr, b_ptr, c_ptr, channel, channels, COUNT, SEGMENTS, COMPUTE)
        p = _either(p, _numbers(a_ptr, b_ptr, c_ptr, then, channels, COUNT, SEGMENTS, COMPUTE), place >= run_length)
    else:
        channel = _channels(first, inner, channels, WIDE, WRAPS, TILE // PER, PER)
        p = _numbers(a_ptr, b_ptr, c_ptr, channel, channels, COUNT, SEGMENTS, COMPUTE)
    c = _constants(first_constant, second_constant, COMPUTE)
    y = VALUE(tl.reshape(x, [TILE // PER, PER]), p, c, FAST)
    store(y_ptr + first + at, tl.reshape(y, [TILE]), at < left, left == TILE, False)


@triton.jit
def prelu_signs(
    x_ptr,
    y_ptr,
    packed_ptr,
    weight_ptr,
    total,
    inner,
    channels,
    BACK: tl.constexpr,
    WIDE: tl.constexpr,
    WRAPS: tl.constexpr,
    TILE: tl.constexpr,
    PER: tl.constexpr,
):
    """y = prelu(x) and a bit for each element, set where not x > 0; BACK: x times the weight where a bit is set."""
    COMPUTE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    first = tl.program_id(0).to(tl.int64) * TILE
    left = tl.minimum(total - first, TILE).to(tl.int32)
    at = tl.arange(0, TILE)
    byte = tl.arange(0, TILE // 8)
    x = load(x_ptr + first + at, at < left, left == TILE, COMPUTE, False)
    if BACK:
        below = unpack(tl.load(packed_ptr + first // 8 + byte, mask=byte * 8 < left, other=0), 1, TILE) != 0
    else:
        below = (at < left) & ~(x > 0)
        packed = pack(below.to(tl.int32), 1, 8, TILE).to(tl.uint8)
        tl.store(packed_ptr + first // 8 + byte, packed, mask=byte * 8 < left)
    channel = _channels(first, inner, channels, WIDE, WRAPS, TILE // PER, PER)
    weight = tl.load(weight_ptr + channel).to(COMPUTE)
    product = tl.reshape(tl.reshape(x, [TILE // PER, PER]) * weight, [TILE])
    store(y_ptr + first + at, tl.where(below, product, x), at < left, left == TILE, False)


@triton.jit
def forward_columns(
    x_ptr,
    y_ptr,
    a_ptr,
    b_ptr,
    c_ptr,
    first_constant: tl.float64,
    second_constant: tl.float64,
    total,
    width,
    channels,
    x_row,
    y_row,
    VALUE: tl.constexpr,
    COUNT: tl.constexpr,
    SEGMENTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """y = f(x) for a tile of ROWS rows; rows have `width` columns, and all of them `total` elements."""
    FAST: tl.constexpr = x_ptr.dtype.element_ty.primitive_bitwidth == 16
    COMPUTE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    blocks = tl.cdiv(width, COLUMNS)
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    channel = column % channels
    row = (tl.program_id(0) // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    mask = (column[None, :] < width) & (row * width + column[None, :] < total)
    p = _numbers(a_ptr, b_ptr, c_ptr, channel[None, :], channels, COUNT, SEGMENTS, COMPUTE)
    c = _constants(first_constant, second_constant, COMPUTE)
    x = tl.load(x_ptr + row * x_row + column[None, :], mask=mask).to(COMPUTE)
    tl.store(y_ptr + row * y_row + column[None, :], VALUE(x, p, c, FAST).to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def backward_columns(
    grad_ptr,
    x_ptr,
    grad_x_ptr,
    a_ptr,
    b_ptr,
    c_ptr,
    partial_ptr,
    first_constant: tl.float64,
    second_constant: tl.float64,
    total,
    width,
    channels,
    grad_row,
    x_row,
    grad_x_row,
    chunks,
    tiles,
    GRADIENT: tl.constexpr,
    SHARES: tl.constexpr,
    SUMS: tl.constexpr,
    COUNT: tl.constexpr,
    SEGMENTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The gradient for x, and SUMS partial sums [sum][chunk][column] of `tiles` tiles of ROWS rows."""
    FAST: tl.constexpr = x_ptr.dtype.element_ty.primitive_bitwidth == 16
    COMPUTE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    blocks = tl.cdiv(width, COLUMNS)
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    channel = column % channels
    chunk = tl.program_id(0) // blocks
    p = _numbers(a_ptr, b_ptr, c_ptr, channel[None, :], channels, COUNT, SEGMENTS, COMPUTE)
    c = _constants(first_constant, second_constant, COMPUTE)
    sums = ()
    for k in tl.static_range(SUMS):
        sums = sums + (tl.zeros((COLUMNS,), COMPUTE),)
    row = chunk.to(tl.int64) * tiles * ROWS + tl.arange(0, ROWS)[:, None]
    for _ in range(tiles):
        mask = (column[None, :] < width) & (row * width + column[None, :] < total)
        x = tl.load(x_ptr + row * x_row + column[None, :], mask=mask, other=0.0).to(COMPUTE)
        grad = tl.load(grad_ptr + row * grad_row + column[None, :], mask=mask, other=0.0).to(COMPUTE)
        grad_x = GRADIENT(grad, x, p, c, FAST).to(grad_x_ptr.dtype.element_ty)
        tl.store(grad_x_ptr + row * grad_x_row + column[None, :], grad_x, mask=mask)
        if SUMS > 0:
            shares = SHARES(grad, x, p, c, FAST)
            more = ()
            for k in tl.static_range(SUMS):
                more = more + (sums[k] + tl.sum(shares[k], axis=0),)
            sums = more
        row += ROWS
    for k in tl.static_range(SUMS):
        partial = partial_ptr + (k * chunks + chunk).to(tl.int64) * width + column
        tl.store(partial, sums[k], mask=column < width)


@triton.jit
def add_up(
    partial_ptr,
    a_ptr,
    b_ptr,
    c_ptr,
    grad_a_ptr,
    grad_b_ptr,
    grad_c_ptr,
    first_constant: tl.float64,
    second_constant: tl.float64,
    chunks,
    channels,
    FACTORS: tl.constexpr,
    COUNT: tl.constexpr,
    SEGMENTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Adds up the partial sums [sum][chunk][channel] over the chunks, in their order, times what the shares lack."""
    COMPUTE: tl.constexpr = partial_ptr.dtype.element_ty
    k = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    row = tl.arange(0, ROWS)[:, None]
    base = partial_ptr + k.to(tl.int64) * chunks * channels
    sums = tl.zeros((ROWS, COLUMNS), COMPUTE)
    for first in range(0, chunks, ROWS):
        mask = (first + row < chunks) & (column < channels)
        sums += tl.load(base + (first + row).to(tl.int64) * channels + column, mask=mask, other=0.0)
    found = tl.sum(sums, axis=0)[None, :]
    p = _numbers(a_ptr, b_ptr, c_ptr, tl.minimum(column, channels - 1), channels, COUNT, SEGMENTS, COMPUTE)
    factors = FACTORS(p, _constants(first_constant, second_constant, COMPUTE))
    for n in tl.static_range(COUNT * SEGMENTS):
        pointer = grad_a_ptr if n < SEGMENTS else grad_b_ptr if n < 2 * SEGMENTS else grad_c_ptr
        place = pointer + n % SEGMENTS * channels + column
        tl.store(place, (found * factors[n]).to(pointer.dtype.element_ty), mask=(column < channels) & (k == n))
