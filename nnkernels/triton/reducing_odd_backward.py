"""The gradients of softmax and log_softmax over contiguous rows of odd length, divided as `reducing_odd` does."""

import triton
import triton.language as tl

from .math import compute_type, is_fast
from .reducing_backward import gradient, load_both, operands, statistics_of, total_of
from .reducing_odd import ends_axis, scalar, tile_of_chunk, tile_of_rows, vector_of
from .reducing_tiles import NONE, exchanged_total, factor_of
from .tiles import store_inside


@triton.jit
def _operands(
    grad, kept, inside, top, norm, scale, factor, LOG: tl.constexpr, FROM_INPUT: tl.constexpr, SCALED: tl.constexpr,
    NEGATIVE: tl.constexpr, COMPUTE: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    # Without a mask, and not causal, nothing reads the pointers to a mask, the position and the query.
    return operands(
        grad, kept, inside, inside, inside, inside, top, norm, scale, factor, LOG, NONE, False, False, FROM_INPUT,
        SCALED, NEGATIVE, COMPUTE, FAST,
    )  # fmt: skip


@triton.jit
def softmax_rows(
    grad_ptr,
    kept_ptr,
    grad_x_ptr,
    tops_ptr,
    norms_ptr,
    rows,
    n,
    scale: tl.float64,
    LOG: tl.constexpr,
    FROM_INPUT: tl.constexpr,
    SCALED: tl.constexpr,
    NEGATIVE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    FAST: tl.constexpr = is_fast(kept_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(kept_ptr.dtype)
    V: tl.constexpr = vector_of(kept_ptr.dtype)
    AXIS: tl.constexpr = ends_axis(BLOCK_ROWS)
    scale, factor = factor_of(scale, NONE, COMPUTE)
    row, first, col, inside, end, ends = tile_of_rows(rows, n, V, BLOCK_ROWS, BLOCK_COLS)
    top, norm = statistics_of(tops_ptr + row, norms_ptr + row, row < rows, FROM_INPUT, COMPUTE)
    top, norm = scalar(top), scalar(norm)
    grad, kept = load_both(grad_ptr + first + col, kept_ptr + first + col, inside, LOG, FROM_INPUT, NEGATIVE)
    end_grad, end_kept = load_both(grad_ptr + first + end, kept_ptr + first + end, ends, LOG, FROM_INPUT, NEGATIVE)
    end_grad, end_y = _operands(
        end_grad, end_kept, ends, top, norm, scale, factor, LOG, FROM_INPUT, SCALED, NEGATIVE, COMPUTE, FAST
    )
    grad, y = _operands(grad, kept, inside, top, norm, scale, factor, LOG, FROM_INPUT, SCALED, NEGATIVE, COMPUTE, FAST)
    total = scalar(total_of(end_grad, end_y, AXIS, LOG)) + scalar(total_of(grad, y, 1, LOG))
    store_inside(grad_x_ptr + first + col, gradient(grad, y, total, scale, LOG, FAST), inside)
    store_inside(grad_x_ptr + first + end, gradient(end_grad, end_y, total, scale, LOG, FAST), ends)


@triton.jit
def softmax_long(
    grad_ptr,
    kept_ptr,
    grad_x_ptr,
    tops_ptr,
    norms_ptr,
    partial_ptr,
    counts_ptr,
    splits,
    n,
    scale: tl.float64,
    LOG: tl.constexpr,
    FROM_INPUT: tl.constexpr,
    SCALED: tl.constexpr,
    NEGATIVE: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    FAST: tl.constexpr = is_fast(kept_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(kept_ptr.dtype)
    V: tl.constexpr = vector_of(kept_ptr.dtype)
    AXIS: tl.constexpr = ends_axis(1)
    scale, factor = factor_of(scale, NONE, COMPUTE)
    chunk, row, first, col, inside, end, ends = tile_of_chunk(counts_ptr, splits, n, V, BLOCK)
    top, norm = statistics_of(tops_ptr + row, norms_ptr + row, None, FROM_INPUT, COMPUTE)
    grad, kept = load_both(grad_ptr + first + col, kept_ptr + first + col, inside, LOG, FROM_INPUT, NEGATIVE)
    end_grad, end_kept = load_both(grad_ptr + first + end, kept_ptr + first + end, ends, LOG, FROM_INPUT, NEGATIVE)
    end_grad, end_y = _operands(
        end_grad, end_kept, ends, top, norm, scale, factor, LOG, FROM_INPUT, SCALED, NEGATIVE, COMPUTE, FAST
    )
    grad, y = _operands(grad, kept, inside, top, norm, scale, factor, LOG, FROM_INPUT, SCALED, NEGATIVE, COMPUTE, FAST)
    own = scalar(total_of(end_grad, end_y, AXIS, LOG)) + scalar(total_of(grad, y, 1, LOG))
    total = exchanged_total(partial_ptr, counts_ptr, chunk, row, splits, own, PARTS)
    store_inside(grad_x_ptr + first + col, gradient(grad, y, total, scale, LOG, FAST), inside)
    store_inside(grad_x_ptr + first + end, gradient(end_grad, end_y, total, scale, LOG, FAST), ends)
