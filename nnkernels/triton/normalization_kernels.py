"""Layer and rms norm with residual and activation, over rows of adjacent elements.

A row in registers is read once: its mean first, then what remains of the mean together with the squares, so that a mean
much larger than the spread costs no digits. Rows too long for that are read in chunks, twice: for the moments, then for
the result.
"""

import triton
import triton.language as tl

from .math import compute_type, is_fast
from .normalization_formulas import BEFORE, add_both, gated, inverse_deviation, keep, load_weight, result
from .tiles import load_inside, store_inside
from .waiting import publish, wait

# A tile has three dimensions, of which the last one is adjacent columns. Neighbouring threads get those and then the
# first dimension, since Triton 3.7 the middle one: that has to be the rows.
ROWS_DIM = tl.constexpr(0 if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7) else 1)


@triton.jit
def _load_sum(
    x_ptr, addend_ptr, addend_at, total_ptr, total_at, inside, STORES: tl.constexpr, COMPUTE: tl.constexpr
):  # fmt: skip
    """x, or its sum with the addend if there is one, rounded to the type of `total_ptr`, to which it goes if STORES."""
    x = load_inside(x_ptr, inside).to(COMPUTE)
    if addend_ptr is not None:
        total = (x + load_inside(addend_ptr + addend_at, inside).to(COMPUTE)).to(total_ptr.dtype.element_ty)
        if STORES:
            tl.store(total_ptr + total_at, total, mask=inside)
        x = total.to(COMPUTE)
    return x


@triton.jit
def row_sum(x):
    """The rows' sums of a tile, over the parts first, which lie in one thread."""
    return tl.sum(tl.sum(x, 1 - ROWS_DIM, keep_dims=True), 2, keep_dims=True)


@triton.jit
def row_sums(x, y):
    """The rows' sums of both, with one exchange between the threads."""
    x, y = tl.reduce((x, y), 1 - ROWS_DIM, add_both, keep_dims=True)
    return tl.reduce((x, y), 2, add_both, keep_dims=True)


@triton.jit
def tile_columns(PARTS: tl.constexpr, WIDTH: tl.constexpr):
    """The columns of a tile. Triton gives neighbouring threads the last dimension, WIDTH, and then the rows, so that a
    thread has a vector of each part: the fewer threads share a row, the less they have to exchange."""
    part = tl.arange(0, PARTS)
    parts = part[:, None, None] if ROWS_DIM == 1 else part[None, :, None]
    return parts * WIDTH + tl.arange(0, WIDTH)[None, None, :]


@triton.jit
def tile_rows(first, ROWS: tl.constexpr):
    row = tl.arange(0, ROWS).to(tl.int64) + first
    return row[None, :, None] if ROWS_DIM == 1 else row[:, None, None]


@triton.jit
def forward_rows(
    x_ptr,
    addend_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    total_ptr,
    y_ptr,
    statistics_ptr,
    a: tl.float64,
    b: tl.float64,
    offset: tl.float64,
    eps: tl.float64,
    rows,
    cols,
    x_stride,
    addend_stride,
    residual_stride,
    VALUE: tl.constexpr,
    CENTRED: tl.constexpr,
    GATES: tl.constexpr,
    FULL: tl.constexpr,
    STAGES: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Every n-th tile of rows, of n programs, each of which loads the parameters once. FULL says that a row has exactly
    PARTS * WIDTH columns."""
    FAST: tl.constexpr = is_fast(x_ptr.dtype if total_ptr is None else total_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype if total_ptr is None else total_ptr.dtype)
    col = tile_columns(PARTS, WIDTH)
    col_inside = None
    if not FULL:
        col_inside = col < cols
    count = tl.full((), cols, COMPUTE)
    weight = weight_ptr
    if weight_ptr is not None:
        weight = load_weight(weight_ptr + col, col_inside, offset, COMPUTE)
    bias = bias_ptr
    if bias_ptr is not None:
        bias = load_inside(bias_ptr + col, col_inside)
    first_row = tl.program_id(0) * ROWS
    for first in tl.range(first_row, rows, tl.num_programs(0) * ROWS, num_stages=STAGES):
        row = tile_rows(first, ROWS)
        inside = col_inside
        if ROWS > 1:
            inside = row < rows if FULL else (row < rows) & (col < cols)
        x = _load_sum(
            x_ptr + row * x_stride + col, addend_ptr, row * addend_stride + col, total_ptr, row * cols + col,
            inside, True, COMPUTE,
        )  # fmt: skip
        residual = residual_ptr
        if residual_ptr is not None:
            residual = load_inside(residual_ptr + row * residual_stride + col, inside)
        if GATES == BEFORE:
            x, _ = gated(x, residual, a, b, VALUE, FAST)
            if inside is not None:
                x = tl.where(inside, x, 0.0)  # whatever f(0) is
        mean = tl.zeros(row.shape, COMPUTE)
        mean_low = mean
        if CENTRED:
            mean = row_sum(x) / count
            x -= mean
            if not FULL:
                x = tl.where(col_inside, x, 0.0)
            mean_low, square = row_sums(x, x * x)
            mean_low /= count
            square = square / count - mean_low * mean_low
        else:
            square = row_sum(x * x) / count
        deviation = inverse_deviation(square, tl.full((), eps, COMPUTE))
        y = result(x * deviation - mean_low * deviation, weight, bias, residual, a, b, VALUE, GATES, FAST)
        store_inside(y_ptr + row * cols + col, y, inside)
        keep(statistics_ptr, mean, mean_low, deviation, row, rows, row < rows, CENTRED)


@triton.jit
def _shared_moments(mean, square, partial_ptr, part, counter, splits, share, cols, SPLITS: tl.constexpr):
    """A row's mean and sum of squares about it, of those of its shares, which each program leaves for the others."""
    tl.store(partial_ptr + 2 * part, mean)
    tl.store(partial_ptr + 2 * part + 1, square)
    publish(counter)
    wait(counter, splits)
    part = tl.arange(0, SPLITS)
    exists = part < splits
    # Past the L1 cache, which may hold these lines as they were before other programs wrote them.
    means = tl.load(partial_ptr + 2 * part, mask=exists, other=0.0, cache_modifier=".cg")
    squares = tl.load(partial_ptr + 2 * part + 1, mask=exists, other=0.0, cache_modifier=".cg")
    counts = tl.maximum(tl.minimum(cols - part * share, share), 0).to(tl.float64)
    mean = tl.sum(means * counts, 0) / cols
    away = means - mean
    return mean, tl.sum(squares + counts * away * away, 0)


@triton.jit
def forward_long(
    x_ptr,
    addend_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    total_ptr,
    y_ptr,
    statistics_ptr,
    partial_ptr,
    counts_ptr,
    a: tl.float64,
    b: tl.float64,
    offset: tl.float64,
    eps: tl.float64,
    rows,
    cols,
    x_stride,
    addend_stride,
    residual_stride,
    splits,
    share,
    VALUE: tl.constexpr,
    CENTRED: tl.constexpr,
    GATES: tl.constexpr,
    SPLITS: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """A share of a row, in chunks. How far their means are from the first one's is added up in float64.

    With `counts_ptr` a row has `splits` shares, SPLITS or fewer, each a program's, which wait for each other's moments.
    """
    FAST: tl.constexpr = is_fast(x_ptr.dtype if total_ptr is None else total_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype if total_ptr is None else total_ptr.dtype)
    number = tl.program_id(0)
    if counts_ptr is not None:
        number = tl.atomic_add(counts_ptr, 1, sem="relaxed")
    row = (number // splits).to(tl.int64)
    begin = number % splits * share
    end = tl.minimum(begin + share, cols)
    col = tl.arange(0, BLOCK_COLS)
    x_ptr += row * x_stride
    addend_row, total_row = row * addend_stride, row * cols
    shift = tl.full((), 0.0, COMPUTE)
    if CENTRED:
        here = begin + col
        first = _load_sum(x_ptr + here, addend_ptr, addend_row + here, total_ptr, 0, here < end, False, COMPUTE)
        if GATES == BEFORE:
            gate = load_inside(residual_ptr + row * residual_stride + here, here < end)
            first, _ = gated(first, gate, a, b, VALUE, FAST)
            first = tl.where(here < end, first, 0.0)  # whatever f(0) is
        shift = tl.sum(first, 0) / tl.minimum(end - begin, BLOCK_COLS)
    squares = tl.zeros((BLOCK_COLS,), COMPUTE)
    lows = squares
    moved = tl.full((), 0.0, tl.float64)
    spread = moved
    for start in tl.range(begin, end, BLOCK_COLS, num_stages=STAGES):
        here = start + col
        x = _load_sum(x_ptr + here, addend_ptr, addend_row + here, total_ptr, 0, here < end, False, COMPUTE)
        if GATES == BEFORE:
            gate = load_inside(residual_ptr + row * residual_stride + here, here < end)
            x, _ = gated(x, gate, a, b, VALUE, FAST)
            x = tl.where(here < end, x, 0.0)
        if CENTRED:
            count = tl.full((), tl.minimum(end - start, BLOCK_COLS), tl.float64)
            x = tl.where(here < end, x - shift, 0.0)
            distance = tl.sum(x, 0) / count.to(COMPUTE)
            x = tl.where(here < end, x - distance, 0.0)
            lows += x
            moved += distance.to(tl.float64) * count
            spread += distance.to(tl.float64) * distance.to(tl.float64) * count
        squares += x * x
    count = tl.full((), end - begin, tl.float64)
    square = tl.sum(squares, 0).to(tl.float64) + (spread - moved * moved / count)
    mean = shift.to(tl.float64) + (moved + tl.sum(lows, 0).to(tl.float64)) / count
    if counts_ptr is not None:
        mean, square = _shared_moments(
            mean, square, partial_ptr + 2 * splits * row, number % splits, counts_ptr + 1 + row, splits, share, cols,
            SPLITS,
        )  # fmt: skip
    deviation = inverse_deviation((square / cols).to(COMPUTE), tl.full((), eps, COMPUTE))
    high = mean.to(COMPUTE)
    low = (mean - high.to(tl.float64)).to(COMPUTE)
    for start in tl.range(begin, end, BLOCK_COLS, num_stages=STAGES):
        here = start + col
        inside = here < end
        x = _load_sum(x_ptr + here, addend_ptr, addend_row + here, total_ptr, total_row + here, inside, True, COMPUTE)
        weight = weight_ptr
        if weight_ptr is not None:
            weight = load_weight(weight_ptr + here, inside, offset, COMPUTE)
        bias = bias_ptr
        if bias_ptr is not None:
            bias = load_inside(bias_ptr + here, inside)
        residual = residual_ptr
        if residual_ptr is not None:
            residual = load_inside(residual_ptr + row * residual_stride + here, inside)
        if GATES == BEFORE:
            x, _ = gated(x, residual, a, b, VALUE, FAST)
        y = result(((x - high) - low) * deviation, weight, bias, residual, a, b, VALUE, GATES, FAST)
        store_inside(y_ptr + row * cols + here, y, inside)
    if begin == 0:
        keep(statistics_ptr, high, low, deviation, row, rows, row < rows, CENTRED)
