"""softmax and log_softmax over contiguous rows of odd length, most of which begin between two vectors of 16 bytes.

A row's whole vectors are loaded and stored as such; the elements before and behind them, fewer than a vector each, are
a small tile of their own, whose elements are moved alone. A row has a whole vector at least. No form has a mask. The
ends' results come first where the order is free, which saves up to half of the registers.
"""

import triton
import triton.language as tl

from .math import compute_type, is_fast
from .reducing_tiles import (
    NONE,
    SHIFT,
    chunk_result,
    exchanged,
    exponent,
    exponential,
    factor_of,
    finite,
    keep,
    load_logits,
    logits,
    maximum,
    next_chunk,
    norm_of,
    result,
    sums,
    within,
)
from .tiles import store_inside


@triton.constexpr_function
def vector_of(pointer_type):
    """The elements of a vector."""
    return 128 // pointer_type.element_ty.primitive_bitwidth


@triton.constexpr_function
def ends_axis(rows):
    """The axis to sum the ends over: both of a single row's, for a scalar. See `scalar`."""
    return None if rows == 1 else 1


@triton.jit
def _whole_vectors(row, n, V: tl.constexpr):
    """The offset of a row's first whole vector, how many elements precede it, and how many its whole vectors have."""
    begin = row * n
    first = (begin + (V - 1)) // V * V
    return first, (first - begin).to(tl.int32), ((begin + n) // V * V - first).to(tl.int32)


@triton.jit
def _ends_of(n, before, count, V: tl.constexpr):
    """Where, from its first whole vector, a row's elements before and behind those are, and which of these exist.

    Those before count from the row's beginning: of a tile of aligned vectors each thread would load all of one's.
    """
    end = tl.arange(0, 2 * V)[None, :]
    at = tl.where(end < V, end - before, count + (end - V))
    return at, at < tl.where(end < V, 0, n - before)


@triton.jit
def tile_of_rows(rows, n, V: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr):
    """This program's rows; where, from `first` on, the elements of their whole vectors and at their ends lie, and which
    exist."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    col = tl.arange(0, BLOCK_COLS)[None, :]
    first, before, count = _whole_vectors(row, n, V)
    inside = within(row, rows, col, count, BLOCK_ROWS == 1, False)
    end, ends = _ends_of(n, before, count, V)
    return row, first, col, inside, end, ends & (row < rows)


@triton.jit
def tile_of_chunk(counts_ptr, splits, n, V: tl.constexpr, BLOCK: tl.constexpr):
    """The same of the chunk that is next, and its number; a row's first chunk has its ends."""
    chunk, row, col = next_chunk(counts_ptr, splits, n, BLOCK)
    first, before, count = _whole_vectors(row, n, V)
    inside = within(row, row, col, count, True, False)
    end, ends = _ends_of(n, before, count, V)
    return chunk, row, first, col, inside, end, ends & (chunk % splits == 0)


@triton.jit
def scalar(value):
    """The one element of a tile of one row and column; more rows remain as they are.

    It has no layout, so that a row's ends are not made to lie as its vectors do, where each thread would load eight.
    """
    if value.shape[0] == 1:
        return tl.sum(tl.sum(value, 1), 0)
    else:
        return value


@triton.jit
def _exponentials(hi, top, factor, AXIS: tl.constexpr, LOG: tl.constexpr, SCALED: tl.constexpr, FAST: tl.constexpr):
    """The exponents of a tile, their errors, the exponentials and their sums."""
    d, d_lo = exponent(hi, hi, top, top, factor, NONE, SCALED, FAST)
    e = exponential(d, d_lo, SHIFT, FAST)
    total, tops = sums(e, d, d_lo, AXIS, LOG, FAST)
    return d, d_lo, e, scalar(total), scalar(tops)


@triton.jit
def _load(pointers, inside, NEGATIVE: tl.constexpr, COMPUTE: tl.constexpr):
    x = load_logits(pointers, inside, NEGATIVE)
    # Without a mask, and not causal, nothing reads the pointers to a mask, the position and the query.
    hi, _ = logits(x, pointers, inside, inside, inside, 1.0, NONE, False, NEGATIVE, COMPUTE)
    return hi


@triton.jit
def softmax_rows(
    x_ptr,
    y_ptr,
    tops_ptr,
    norms_ptr,
    rows,
    n,
    scale: tl.float64,
    LOG: tl.constexpr,
    SCALED: tl.constexpr,
    NEGATIVE: tl.constexpr,
    KEEPS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    FAST: tl.constexpr = is_fast(y_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(y_ptr.dtype)
    V: tl.constexpr = vector_of(y_ptr.dtype)
    AXIS: tl.constexpr = ends_axis(BLOCK_ROWS)
    _, factor = factor_of(scale, NONE, COMPUTE)
    row, first, col, inside, end, ends = tile_of_rows(rows, n, V, BLOCK_ROWS, BLOCK_COLS)
    hi = _load(x_ptr + first + col, inside, NEGATIVE, COMPUTE)
    end_hi = _load(x_ptr + first + end, ends, NEGATIVE, COMPUTE)
    own, zero = maximum(hi, hi, 1, NONE)
    end_own, _ = maximum(end_hi, end_hi, AXIS, NONE)
    top = tl.maximum(scalar(own), scalar(end_own))
    end_d, end_lo, end_e, end_total, end_tops = _exponentials(end_hi, top, factor, AXIS, LOG, SCALED, FAST)
    d, d_lo, e, total, tops = _exponentials(hi, top, factor, 1, LOG, SCALED, FAST)
    norm = norm_of(total + end_total, tops + end_tops, LOG, False, FAST)
    store_inside(y_ptr + first + col, result(e, d, d_lo, norm, LOG, FAST), inside)
    store_inside(y_ptr + first + end, result(end_e, end_d, end_lo, norm, LOG, FAST), ends)
    if KEEPS:
        keep(tops_ptr + row, norms_ptr + row, top, zero, norm, row < rows)


@triton.jit
def softmax_long(
    x_ptr,
    y_ptr,
    tops_ptr,
    norms_ptr,
    partial_ptr,
    counts_ptr,
    splits,
    n,
    scale: tl.float64,
    LOG: tl.constexpr,
    SCALED: tl.constexpr,
    NEGATIVE: tl.constexpr,
    KEEPS: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Chunks of a row's vectors, as `reducing_kernels.softmax_long` has them; a row's first has its ends as well."""
    FAST: tl.constexpr = is_fast(y_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(y_ptr.dtype)
    V: tl.constexpr = vector_of(y_ptr.dtype)
    AXIS: tl.constexpr = ends_axis(1)
    _, factor = factor_of(scale, NONE, COMPUTE)
    chunk, row, first, col, inside, end, ends = tile_of_chunk(counts_ptr, splits, n, V, BLOCK)
    hi = _load(x_ptr + first + col, inside, NEGATIVE, COMPUTE)
    end_hi = _load(x_ptr + first + end, ends, NEGATIVE, COMPUTE)
    own, zero = maximum(hi, hi, 1, NONE)
    end_own, _ = maximum(end_hi, end_hi, AXIS, NONE)
    own, zero = tl.maximum(scalar(own), scalar(end_own)), scalar(zero)
    base, _ = finite(own, zero)
    _, _, end_e, end_total, end_tops = _exponentials(end_hi, base, factor, AXIS, LOG, SCALED, FAST)
    _, _, e, total, tops = _exponentials(hi, base, factor, 1, LOG, SCALED, FAST)
    top, top_lo, total, tops = exchanged(
        partial_ptr, counts_ptr, chunk, row, splits, own, zero, total + end_total, tops + end_tops, factor, LOG, NONE,
        SCALED, FAST, PARTS,
    )  # fmt: skip
    norm = norm_of(total, tops, LOG, False, FAST)
    y = chunk_result(e, hi, hi, own, zero, top, top_lo, norm, factor, LOG, NONE, SCALED, FAST)
    store_inside(y_ptr + first + col, y, inside)
    y = chunk_result(end_e, end_hi, end_hi, own, zero, top, top_lo, norm, factor, LOG, NONE, SCALED, FAST)
    store_inside(y_ptr + first + end, y, ends)
    if KEEPS:
        keep(tops_ptr + row, norms_ptr + row, top, top_lo, norm, chunk % splits == 0)
