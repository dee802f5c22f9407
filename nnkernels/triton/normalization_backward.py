"""The gradients of layer and rms norm, from what was normalised and its rows' statistics."""

import triton
import triton.language as tl

from .math import compute_type, is_fast
from .normalization_formulas import BEFORE, gated, load_weight, normalise, slope_of
from .normalization_kernels import ROWS_DIM, row_sum, row_sums, tile_columns, tile_rows
from .tiles import load_inside, store_inside, times


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
    offset: tl.float64,
    rows,
    cols,
    grad_stride,
    x_stride,
    residual_stride,
    splits,
    share,
    GATES: tl.constexpr,
    VALUE: tl.constexpr,
    D1: tl.constexpr,
    MASKS: tl.constexpr,
    CENTRED: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """The two means that the gradient of a row needs, for rows that are too long for `backward` to find them: what a
    program's share of a row adds to each."""
    FAST: tl.constexpr = is_fast(x_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype)
    row = (tl.program_id(0) // splits).to(tl.int64)
    begin = tl.program_id(0) % splits * share
    end = tl.minimum(begin + share, cols)
    col = tl.arange(0, BLOCK_COLS)
    along = tl.zeros((BLOCK_COLS,), COMPUTE)
    total = along
    for start in tl.range(begin, end, BLOCK_COLS, num_stages=STAGES):
        here = start + col
        inside = here < end
        x = load_inside(x_ptr + row * x_stride + here, inside).to(COMPUTE)
        grad = load_inside(grad_ptr + row * grad_stride + here, inside).to(COMPUTE)
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
        normalised, _ = normalise(x, statistics_ptr, row, rows, row < rows, CENTRED, COMPUTE)
        grad, _ = slope_of(grad, normalised, weight, bias, residual, a, b, GATES, VALUE, D1, MASKS, FAST, COMPUTE)
        if weight is not None:
            grad *= weight
        grad = tl.where(inside, grad, 0.0)
        along += grad * normalised
        total += grad
    count = tl.full((), cols, COMPUTE)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(along, 0) / count)
    tl.store(sums_ptr + rows * splits + tl.program_id(0), tl.sum(total, 0) / count)


@triton.jit
def _row_mean(sums_ptr, row, rows, splits, SPLITS: tl.constexpr):
    """What the shares of a row's mean, SPLITS or fewer, add up to."""
    part = tl.arange(0, SPLITS)[None, None, :]
    there = (row < rows) & (part < splits)
    return tl.sum(tl.load(sums_ptr + row * splits + part, mask=there, other=0.0), 2, keep_dims=True)


@triton.jit
def backward(
    grad_ptr,
    x_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    statistics_ptr,
    sums_ptr,
    grad_sum_ptr,
    grad_x_ptr,
    narrowed_ptr,
    grad_residual_ptr,
    for_weight_ptr,
    for_bias_ptr,
    a: tl.float64,
    b: tl.float64,
    offset: tl.float64,
    rows,
    cols,
    grad_stride,
    x_stride,
    residual_stride,
    grad_sum_stride,
    splits,
    GATES: tl.constexpr,
    VALUE: tl.constexpr,
    D1: tl.constexpr,
    MASKS: tl.constexpr,
    CENTRED: tl.constexpr,
    FULL: tl.constexpr,
    SPLITS: tl.constexpr,
    STAGES: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Some columns of every n-th tile of rows, of n programs, whose sums over its rows are one row of partial sums.

    FULL says that each program's columns are exactly PARTS * WIDTH; without `sums_ptr` they are the whole row.
    """
    FAST: tl.constexpr = is_fast(x_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype)
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    col = tl.program_id(1) * (PARTS * WIDTH) + tile_columns(PARTS, WIDTH)
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
    for_weight = tl.zeros((PARTS, ROWS, WIDTH) if ROWS_DIM == 1 else (ROWS, PARTS, WIDTH), COMPUTE)
    for_bias = for_weight
    for first in tl.range(program * ROWS, rows, programs * ROWS, num_stages=STAGES):
        row = tile_rows(first, ROWS)
        inside = col_inside
        if ROWS > 1:
            inside = row < rows if FULL else (row < rows) & (col < cols)
        x = load_inside(x_ptr + row * x_stride + col, inside).to(COMPUTE)
        grad = load_inside(grad_ptr + row * grad_stride + col, inside).to(COMPUTE)
        residual = residual_ptr
        if residual_ptr is not None:
            residual = load_inside(residual_ptr + row * residual_stride + col, inside)
        given = x
        factor = x
        if GATES == BEFORE:
            x, factor = gated(x, residual, a, b, VALUE, FAST)
        normalised, deviation = normalise(x, statistics_ptr, row, rows, row < rows, CENTRED, COMPUTE)
        grad, for_residual = slope_of(
            grad, normalised, weight, bias, residual, a, b, GATES, VALUE, D1, MASKS, FAST, COMPUTE
        )
        if inside is not None:
            grad = tl.where(inside, grad, 0.0)
        if GATES != BEFORE and grad_residual_ptr is not None:
            store_inside(grad_residual_ptr + row * cols + col, for_residual, inside)
        if for_weight_ptr is not None:
            for_weight += grad * normalised
        if for_bias_ptr is not None:
            for_bias += grad
        if weight is not None:
            grad *= weight
        if sums_ptr is None:
            if CENTRED:
                along, total = row_sums(grad * normalised, grad)
                grad_x = grad - normalised * (along / count) - total / count
            else:
                along = row_sum(grad * normalised)
                grad_x = grad - normalised * (along / count)
        else:
            grad_x = grad - normalised * _row_mean(sums_ptr, row, rows, splits, SPLITS)
            if CENTRED:
                grad_x -= _row_mean(sums_ptr + rows * splits, row, rows, splits, SPLITS)
        grad_x *= deviation
        if GATES == BEFORE:
            if grad_residual_ptr is not None:
                slope = D1(residual.to(COMPUTE), tl.full((), a, COMPUTE), tl.full((), b, COMPUTE), FAST)
                store_inside(grad_residual_ptr + row * cols + col, times(grad_x * given, slope, MASKS), inside)
            grad_x *= factor
        if grad_sum_ptr is not None:
            grad_x += load_inside(grad_sum_ptr + row * grad_sum_stride + col, inside).to(COMPUTE)
        store_inside(grad_x_ptr + row * cols + col, grad_x, inside)
        if narrowed_ptr is not None:
            store_inside(narrowed_ptr + row * cols + col, grad_x, inside)
    at = program.to(tl.int64) * cols + col
    if for_weight_ptr is not None:
        store_inside(for_weight_ptr + at, tl.sum(for_weight, ROWS_DIM, keep_dims=True), col_inside)
    if for_bias_ptr is not None:
        store_inside(for_bias_ptr + at, tl.sum(for_bias, ROWS_DIM, keep_dims=True), col_inside)


@triton.jit
def _add_columns(partial_ptr, out_ptr, partials, cols, col, BLOCK: tl.constexpr, BLOCK_COLS: tl.constexpr):
    total = tl.zeros((BLOCK, BLOCK_COLS), partial_ptr.dtype.element_ty)
    for first in range(0, partials, BLOCK):
        row = first + tl.arange(0, BLOCK)[:, None]
        total += tl.load(partial_ptr + row.to(tl.int64) * cols + col, mask=(row < partials) & (col < cols), other=0.0)
    store_inside(out_ptr + col, tl.sum(total, 0, keep_dims=True), col < cols)


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
