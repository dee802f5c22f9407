"""Layer and rms norm with residual and activation, over rows of adjacent elements.

A row in registers is read once: its mean first, then what remains of the mean together with the squares, so that a mean
much larger than the spread costs no digits. Rows too long for that are read in chunks, once more for each thing that
has to be known of the whole row first.
"""

import triton
import triton.language as tl

from ..contracts.normalization import Gate
from .math import compute_type, is_fast

AFTER, BEFORE = tl.constexpr(int(Gate.AFTER)), tl.constexpr(int(Gate.BEFORE))


@triton.jit
def load(pointers, inside):
    if inside is None:
        return tl.load(pointers)
    else:
        return tl.load(pointers, mask=inside, other=0.0)


@triton.jit
def store(pointers, y, inside):
    tl.store(pointers, y.to(pointers.dtype.element_ty), mask=inside)


@triton.jit
def _inverse_deviation(square, eps):
    # A tiny square may have been rounded below 0; NaN stays.
    square = tl.where(square < 0, 0.0, square) + eps
    return tl.div_rn(1.0, tl.sqrt_rn(square)) if square.dtype == tl.float32 else 1.0 / tl.sqrt(square)


@triton.jit
def _load_sum(x_ptr, addend_ptr, addend_at, total_ptr, total_at, inside, COMPUTE: tl.constexpr):
    """x, or its sum with the addend if there is one, in x's type; that goes to `total_ptr` if it is given."""
    x = load(x_ptr, inside)
    if addend_ptr is not None:
        x = (x.to(COMPUTE) + load(addend_ptr + addend_at, inside).to(COMPUTE)).to(x.dtype)
        if total_ptr is not None:
            tl.store(total_ptr + total_at, x, mask=inside)
    return x.to(COMPUTE)


@triton.jit
def gated(x, gate, a, b, VALUE: tl.constexpr, FAST: tl.constexpr):
    """x f(gate), and f(gate)."""
    factor = VALUE(gate.to(x.dtype), tl.full((), a, x.dtype), tl.full((), b, x.dtype), FAST)
    return x * factor, factor


@triton.jit
def load_weight(weight_ptr, inside, offset, COMPUTE: tl.constexpr):
    return load(weight_ptr, inside).to(COMPUTE) + tl.full((), offset, COMPUTE)


@triton.jit
def argument_of(normalised, weight, bias, residual):
    """The activation's argument."""
    z = normalised
    if weight is not None:
        z *= weight
    if bias is not None:
        z += bias.to(z.dtype)
    if residual is not None:
        z += residual.to(z.dtype)
    return z


@triton.jit
def _result(
    normalised, weight, bias, residual, a, b, VALUE: tl.constexpr, GATES: tl.constexpr, FAST: tl.constexpr
):  # fmt: skip
    a, b = tl.full((), a, normalised.dtype), tl.full((), b, normalised.dtype)
    if GATES == AFTER:
        return argument_of(normalised, weight, bias, None) * VALUE(residual.to(normalised.dtype), a, b, FAST)
    elif GATES == BEFORE:
        return argument_of(normalised, weight, bias, None)
    else:
        return VALUE(argument_of(normalised, weight, bias, residual), a, b, FAST)


@triton.jit
def _keep(statistics_ptr, mean, mean_low, deviation, row, rows, CENTRED: tl.constexpr):
    if statistics_ptr is not None:
        KEPT: tl.constexpr = statistics_ptr.dtype.element_ty
        if CENTRED:
            tl.store(statistics_ptr + row, mean.to(KEPT) + mean_low.to(KEPT), mask=row < rows)
            statistics_ptr += rows
        tl.store(statistics_ptr + row, deviation.to(KEPT), mask=row < rows)


@triton.jit
def _add_both(a, b, c, d):
    return a + c, b + d


@triton.jit
def row_sums(x, y):
    """The rows' sums of both, with one exchange between the warps."""
    return tl.reduce((x, y), 1, _add_both, keep_dims=True)


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
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """FULL says that a row has exactly BLOCK_COLS columns."""
    FAST: tl.constexpr = is_fast(x_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype)
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    col = tl.arange(0, BLOCK_COLS)[None, :]
    col_inside = None
    if not FULL:
        col_inside = col < cols
    inside = col_inside
    if BLOCK_ROWS > 1:
        inside = row < rows if FULL else (row < rows) & (col < cols)
    count = tl.full((), cols, COMPUTE)
    x = _load_sum(
        x_ptr + row * x_stride + col, addend_ptr, row * addend_stride + col, total_ptr, row * cols + col,
        inside, COMPUTE,
    )  # fmt: skip
    residual = residual_ptr
    if residual_ptr is not None:
        residual = load(residual_ptr + row * residual_stride + col, inside)
    if GATES == BEFORE:
        x, _ = gated(x, residual, a, b, VALUE, FAST)
        if inside is not None:
            x = tl.where(inside, x, 0.0)  # whatever f(0) is
    weight = weight_ptr
    if weight_ptr is not None:
        weight = load_weight(weight_ptr + col, col_inside, offset, COMPUTE)
    bias = bias_ptr
    if bias_ptr is not None:
        bias = load(bias_ptr + col, col_inside)
    mean = tl.zeros((BLOCK_ROWS, 1), COMPUTE)
    mean_low = mean
    if CENTRED:
        mean = tl.sum(x, 1, keep_dims=True) / count
        x -= mean
        if not FULL:
            x = tl.where(col_inside, x, 0.0)
        mean_low, square = row_sums(x, x * x)
        mean_low /= count
        square = square / count - mean_low * mean_low
    else:
        square = tl.sum(x * x, 1, keep_dims=True) / count
    deviation = _inverse_deviation(square, tl.full((), eps, COMPUTE))
    y = _result((x - mean_low) * deviation, weight, bias, residual, a, b, VALUE, GATES, FAST)
    store(y_ptr + row * cols + col, y, inside)
    _keep(statistics_ptr, mean, mean_low, deviation, row, rows, CENTRED)


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
    BLOCK_COLS: tl.constexpr,
):
    """One row, in chunks. How far their means are from the first one's is added up in float64."""
    FAST: tl.constexpr = is_fast(x_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype)
    row = tl.program_id(0).to(tl.int64)
    col = tl.arange(0, BLOCK_COLS)
    x_ptr += row * x_stride
    addend_row, total_row = row * addend_stride, row * cols
    shift = tl.full((), 0.0, COMPUTE)
    if CENTRED:
        first = _load_sum(x_ptr + col, addend_ptr, addend_row + col, None, 0, None, COMPUTE)
        if GATES == BEFORE:
            first, _ = gated(first, load(residual_ptr + row * residual_stride + col, None), a, b, VALUE, FAST)
        shift = tl.sum(first, 0) / BLOCK_COLS
    squares = tl.zeros((BLOCK_COLS,), COMPUTE)
    lows = squares
    moved = tl.full((), 0.0, tl.float64)
    spread = moved
    for start in range(0, cols, BLOCK_COLS):
        here = start + col
        x = _load_sum(x_ptr + here, addend_ptr, addend_row + here, None, 0, here < cols, COMPUTE)
        if GATES == BEFORE:
            gate = load(residual_ptr + row * residual_stride + here, here < cols)
            x, _ = gated(x, gate, a, b, VALUE, FAST)
            x = tl.where(here < cols, x, 0.0)
        if CENTRED:
            count = tl.full((), tl.minimum(cols - start, BLOCK_COLS), tl.float64)
            x = tl.where(start + col < cols, x - shift, 0.0)
            distance = tl.sum(x, 0) / count.to(COMPUTE)
            x = tl.where(start + col < cols, x - distance, 0.0)
            lows += x
            moved += distance.to(tl.float64) * count
            spread += distance.to(tl.float64) * distance.to(tl.float64) * count
        squares += x * x
    whole = tl.full((), cols, tl.float64)
    mean = shift.to(tl.float64) + moved / whole
    square = (tl.sum(squares, 0).to(tl.float64) + (spread - moved * moved / whole)) / whole
    if CENTRED:
        mean += tl.sum(lows, 0).to(tl.float64) / whole
    deviation = _inverse_deviation(square.to(COMPUTE), tl.full((), eps, COMPUTE))
    high = mean.to(COMPUTE)
    low = (mean - high.to(tl.float64)).to(COMPUTE)
    for start in range(0, cols, BLOCK_COLS):
        here = start + col
        inside = here < cols
        x = _load_sum(x_ptr + here, addend_ptr, addend_row + here, total_ptr, total_row + here, inside, COMPUTE)
        weight = weight_ptr
        if weight_ptr is not None:
            weight = load_weight(weight_ptr + here, inside, offset, COMPUTE)
        bias = bias_ptr
        if bias_ptr is not None:
            bias = load(bias_ptr + here, inside)
        residual = residual_ptr
        if residual_ptr is not None:
            residual = load(residual_ptr + row * residual_stride + here, inside)
        if GATES == BEFORE:
            x, _ = gated(x, residual, a, b, VALUE, FAST)
        y = _result(((x - high) - low) * deviation, weight, bias, residual, a, b, VALUE, GATES, FAST)
        store(y_ptr + row * cols + here, y, inside)
    _keep(statistics_ptr, high, low, deviation, row, rows, CENTRED)
