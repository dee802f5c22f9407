"""Layer and rms norm with residual and activation, over rows of adjacent elements.

A row in registers is read once: its mean first, then what remains of the mean together with the squares, so that a mean
much larger than the spread costs no digits. Rows too long for that are read in chunks, once more for each thing that
has to be known of the whole row first.
"""

import triton
import triton.language as tl

from .kernels import _times
from .math import compute_type, is_fast


@triton.jit
def _load(pointers, inside):
    if inside is None:
        return tl.load(pointers)
    else:
        return tl.load(pointers, mask=inside, other=0.0)


@triton.jit
def _store(pointers, y, inside):
    tl.store(pointers, y.to(pointers.dtype.element_ty), mask=inside)


@triton.jit
def _inverse_deviation(square, eps):
    # A tiny square may have been rounded below 0; NaN stays.
    square = tl.where(square < 0, 0.0, square) + eps
    return tl.div_rn(1.0, tl.sqrt_rn(square)) if square.dtype == tl.float32 else 1.0 / tl.sqrt(square)


@triton.jit
def _affine(normalised, weight, bias, residual):
    """The activation's argument."""
    z = normalised
    if weight is not None:
        z *= weight.to(z.dtype)
    if bias is not None:
        z += bias.to(z.dtype)
    if residual is not None:
        z += residual.to(z.dtype)
    return z


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
def _row_sums(x, y):
    """The rows' sums of both, with one exchange between the warps."""
    return tl.reduce((x, y), 1, _add_both, keep_dims=True)


@triton.jit
def forward_rows(
    x_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    statistics_ptr,
    a: tl.float64,
    b: tl.float64,
    eps: tl.float64,
    rows,
    cols,
    x_stride,
    residual_stride,
    VALUE: tl.constexpr,
    CENTRED: tl.constexpr,
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
    x = _load(x_ptr + row * x_stride + col, inside).to(COMPUTE)
    residual = residual_ptr
    if residual_ptr is not None:
        residual = _load(residual_ptr + row * residual_stride + col, inside)
    weight = weight_ptr
    if weight_ptr is not None:
        weight = _load(weight_ptr + col, col_inside)
    bias = bias_ptr
    if bias_ptr is not None:
        bias = _load(bias_ptr + col, col_inside)
    mean = tl.zeros((BLOCK_ROWS, 1), COMPUTE)
    mean_low = mean
    if CENTRED:
        mean = tl.sum(x, 1, keep_dims=True) / count
        x -= mean
        if not FULL:
            x = tl.where(col_inside, x, 0.0)
        mean_low, square = _row_sums(x, x * x)
        mean_low /= count
        square = square / count - mean_low * mean_low
    else:
        square = tl.sum(x * x, 1, keep_dims=True) / count
    deviation = _inverse_deviation(square, tl.full((), eps, COMPUTE))
    z = _affine((x - mean_low) * deviation, weight, bias, residual)
    y = VALUE(z, tl.full((), a, COMPUTE), tl.full((), b, COMPUTE), FAST)
    _store(y_ptr + row * cols + col, y, inside)
    _keep(statistics_ptr, mean, mean_low, deviation, row, rows, CENTRED)


@triton.jit
def forward_long(
    x_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    statistics_ptr,
    a: tl.float64,
    b: tl.float64,
    eps: tl.float64,
    rows,
    cols,
    x_stride,
    residual_stride,
    VALUE: tl.constexpr,
    CENTRED: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """One row, in chunks. How far their means are from the first one's is added up in float64."""
    FAST: tl.constexpr = is_fast(x_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype)
    row = tl.program_id(0).to(tl.int64)
    col = tl.arange(0, BLOCK_COLS)
    x_ptr += row * x_stride
    shift = tl.sum(tl.load(x_ptr + col).to(COMPUTE), 0) / BLOCK_COLS if CENTRED else tl.full((), 0.0, COMPUTE)
    squares = tl.zeros((BLOCK_COLS,), COMPUTE)
    lows = squares
    moved = tl.full((), 0.0, tl.float64)
    spread = moved
    for start in range(0, cols, BLOCK_COLS):
        x = tl.load(x_ptr + start + col, mask=start + col < cols, other=0.0).to(COMPUTE)
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
        x = tl.load(x_ptr + here, mask=inside, other=0.0).to(COMPUTE)
        weight = weight_ptr
        if weight_ptr is not None:
            weight = _load(weight_ptr + here, inside)
        bias = bias_ptr
        if bias_ptr is not None:
            bias = _load(bias_ptr + here, inside)
        residual = residual_ptr
        if residual_ptr is not None:
            residual = _load(residual_ptr + row * residual_stride + here, inside)
        z = _affine(((x - high) - low) * deviation, weight, bias, residual)
        y = VALUE(z, tl.full((), a, COMPUTE), tl.full((), b, COMPUTE), FAST)
        _store(y_ptr + row * cols + here, y, inside)
    _keep(statistics_ptr, high, low, deviation, row, rows, CENTRED)


@triton.jit
def _normalised(x, statistics_ptr, row, rows, rows_inside, CENTRED: tl.constexpr, COMPUTE: tl.constexpr):
    """x normalised by the statistics that forward kept, and 1 / deviation."""
    KEPT: tl.constexpr = statistics_ptr.dtype.element_ty
    if CENTRED:
        mean = tl.load(statistics_ptr + row, mask=rows_inside, other=0.0)
        high = mean.to(COMPUTE)
        x -= high
        if KEPT != COMPUTE:
            x -= (mean - high.to(KEPT)).to(COMPUTE)
        statistics_ptr += rows
    deviation = tl.load(statistics_ptr + row, mask=rows_inside, other=0.0).to(COMPUTE)
    return x * deviation, deviation


@triton.jit
def _slope(
    grad,
    normalised,
    weight,
    bias,
    residual,
    a,
    b,
    D1: tl.constexpr,
    MASKS: tl.constexpr,
    FAST: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """The gradient of the activation's argument; D1 is None for "identity"."""
    if D1 is None:
        return grad
    else:
        z = _affine(normalised, weight, bias, residual)
        return _times(grad, D1(z, tl.full((), a, COMPUTE), tl.full((), b, COMPUTE), FAST), MASKS)


@triton.jit
def sums_long(
    grad_ptr,
    x_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    statistics_ptr,
    sums_ptr,
    a: tl.float64,
    b: tl.float64,
    rows,
    cols,
    grad_stride,
    x_stride,
    residual_stride,
    D1: tl.constexpr,
    MASKS: tl.constexpr,
    CENTRED: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """The two means that the gradient of a row needs, for rows that are too long for `backward` to find them."""
    FAST: tl.constexpr = is_fast(x_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype)
    row = tl.program_id(0).to(tl.int64)
    col = tl.arange(0, BLOCK_COLS)
    along = tl.zeros((BLOCK_COLS,), COMPUTE)
    total = along
    for start in range(0, cols, BLOCK_COLS):
        here = start + col
        inside = here < cols
        x = _load(x_ptr + row * x_stride + here, inside).to(COMPUTE)
        grad = _load(grad_ptr + row * grad_stride + here, inside).to(COMPUTE)
        weight = weight_ptr
        if weight_ptr is not None:
            weight = _load(weight_ptr + here, inside)
        bias = bias_ptr
        if bias_ptr is not None:
            bias = _load(bias_ptr + here, inside)
        residual = residual_ptr
        if residual_ptr is not None:
            residual = _load(residual_ptr + row * residual_stride + here, inside)
        normalised, _ = _normalised(x, statistics_ptr, row, rows, row < rows, CENTRED, COMPUTE)
        grad = _slope(grad, normalised, weight, bias, residual, a, b, D1, MASKS, FAST, COMPUTE)
        if weight is not None:
            grad *= weight.to(COMPUTE)
        grad = tl.where(inside, grad, 0.0)
        along += grad * normalised
        total += grad
    count = tl.full((), cols, COMPUTE)
    tl.store(sums_ptr + row, tl.sum(along, 0) / count)
    tl.store(sums_ptr + rows + row, tl.sum(total, 0) / count)


@triton.jit
def backward(
    grad_ptr,
    x_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    statistics_ptr,
    sums_ptr,
    grad_x_ptr,
    grad_residual_ptr,
    for_weight_ptr,
    for_bias_ptr,
    a: tl.float64,
    b: tl.float64,
    rows,
    cols,
    grad_stride,
    x_stride,
    residual_stride,
    D1: tl.constexpr,
    MASKS: tl.constexpr,
    CENTRED: tl.constexpr,
    FULL: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """Some columns of every n-th tile of rows, of n programs, whose sums over its rows are one row of partial sums.

    FULL says that each program's columns are exactly BLOCK_COLS; without `sums_ptr` they are the whole row.
    """
    FAST: tl.constexpr = is_fast(x_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype)
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    col = tl.program_id(1) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)[None, :]
    col_inside = None
    if not FULL:
        col_inside = col < cols
    count = tl.full((), cols, COMPUTE)
    weight = weight_ptr
    if weight_ptr is not None:
        weight = _load(weight_ptr + col, col_inside)
    bias = bias_ptr
    if bias_ptr is not None:
        bias = _load(bias_ptr + col, col_inside)
    for_weight = tl.zeros((BLOCK_ROWS, BLOCK_COLS), COMPUTE)
    for_bias = for_weight
    for first in tl.range(program * BLOCK_ROWS, rows, programs * BLOCK_ROWS, num_stages=STAGES):
        row = tl.arange(0, BLOCK_ROWS)[:, None].to(tl.int64) + first
        inside = col_inside
        if BLOCK_ROWS > 1:
            inside = row < rows if FULL else (row < rows) & (col < cols)
        x = _load(x_ptr + row * x_stride + col, inside).to(COMPUTE)
        grad = _load(grad_ptr + row * grad_stride + col, inside).to(COMPUTE)
        residual = residual_ptr
        if residual_ptr is not None:
            residual = _load(residual_ptr + row * residual_stride + col, inside)
        normalised, deviation = _normalised(x, statistics_ptr, row, rows, row < rows, CENTRED, COMPUTE)
        grad = _slope(grad, normalised, weight, bias, residual, a, b, D1, MASKS, FAST, COMPUTE)
        if inside is not None:
            grad = tl.where(inside, grad, 0.0)
        if grad_residual_ptr is not None:
            _store(grad_residual_ptr + row * cols + col, grad, inside)
        if for_weight_ptr is not None:
            for_weight += grad * normalised
        if for_bias_ptr is not None:
            for_bias += grad
        if weight is not None:
            grad *= weight.to(COMPUTE)
        if sums_ptr is None:
            if CENTRED:
                along, total = _row_sums(grad * normalised, grad)
                grad_x = grad - normalised * (along / count) - total / count
            else:
                along = tl.sum(grad * normalised, 1, keep_dims=True)
                grad_x = grad - normalised * (along / count)
        else:
            along = tl.load(sums_ptr + row, mask=row < rows, other=0.0)
            grad_x = grad - normalised * along
            if CENTRED:
                grad_x -= tl.load(sums_ptr + rows + row, mask=row < rows, other=0.0)
        _store(grad_x_ptr + row * cols + col, grad_x * deviation, inside)
    at = program.to(tl.int64) * cols + col
    if for_weight_ptr is not None:
        _store(for_weight_ptr + at, tl.sum(for_weight, 0, keep_dims=True), col_inside)
    if for_bias_ptr is not None:
        _store(for_bias_ptr + at, tl.sum(for_bias, 0, keep_dims=True), col_inside)


@triton.jit
def _add_columns(partial_ptr, out_ptr, partials, cols, col, BLOCK: tl.constexpr, BLOCK_COLS: tl.constexpr):
    total = tl.zeros((BLOCK, BLOCK_COLS), partial_ptr.dtype.element_ty)
    for first in range(0, partials, BLOCK):
        row = first + tl.arange(0, BLOCK)[:, None]
        total += tl.load(partial_ptr + row.to(tl.int64) * cols + col, mask=(row < partials) & (col < cols), other=0.0)
    _store(out_ptr + col, tl.sum(total, 0, keep_dims=True), col < cols)


@triton.jit
def add_partials(
    weight_partial_ptr,
    bias_partial_ptr,
    weight_ptr,
    bias_ptr,
    partials,
    cols,
    BLOCK: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """The columns' sums of one or two matrices of partial sums, in an order that their number of rows alone decides."""
    col = tl.program_id(0) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)[None, :]
    if bias_ptr is None:
        _add_columns(weight_partial_ptr, weight_ptr, partials, cols, col, BLOCK, BLOCK_COLS)
    elif weight_ptr is None:
        _add_columns(bias_partial_ptr, bias_ptr, partials, cols, col, BLOCK, BLOCK_COLS)
    elif tl.program_id(1) == 0:
        _add_columns(weight_partial_ptr, weight_ptr, partials, cols, col, BLOCK, BLOCK_COLS)
    else:
        _add_columns(bias_partial_ptr, bias_ptr, partials, cols, col, BLOCK, BLOCK_COLS)
