"""The gradients of softmax and log_softmax from what was kept: the output, or the input and each row's statistics.

The kernels divide the work as the forward ones do.
"""

import triton
import triton.language as tl

from .math import compute_type, is_fast
from .reducing_tiles import (
    NONE,
    SHIFT,
    UNIT,
    aligned,
    exchanged_total,
    exponent,
    exponential,
    factor_of,
    load_logits,
    logits,
    mask_offset,
    next_chunk,
    result,
    wanted,
    within,
)
from .tiles import load_inside, store_inside

_INF = tl.constexpr(float("inf"))


@triton.jit
def load_both(grad_ptrs, kept_ptrs, there, LOG: tl.constexpr, FROM_INPUT: tl.constexpr, NEGATIVE: tl.constexpr):
    grad = load_inside(grad_ptrs, there, 0.0)
    if FROM_INPUT:
        kept = load_logits(kept_ptrs, there, NEGATIVE)
    else:
        kept = load_inside(kept_ptrs, there, -_INF if LOG else 0.0)
    return grad, kept


@triton.jit
def statistics_of(tops_ptrs, norms_ptrs, inside, FROM_INPUT: tl.constexpr, COMPUTE: tl.constexpr):
    if FROM_INPUT:
        top, norm = load_inside(tops_ptrs, inside, 0.0), load_inside(norms_ptrs, inside, 0.0)
    else:
        top, norm = tl.zeros([1, 1], COMPUTE), tl.zeros([1, 1], COMPUTE)
    return top, norm


@triton.jit
def operands(
    grad, kept, mask_ptrs, inside, position, query, top, norm, scale, factor, LOG: tl.constexpr, MASK: tl.constexpr,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, FROM_INPUT: tl.constexpr, SCALED: tl.constexpr, NEGATIVE: tl.constexpr,
    COMPUTE: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Gradients and outputs of a loaded tile. What a mask removed has an output of 0 (-inf), and no gradient."""
    grad = grad.to(COMPUTE)
    if FROM_INPUT:
        hi, lo = logits(kept, mask_ptrs, inside, position, query, scale, MASK, CAUSAL, NEGATIVE, COMPUTE)
        d, d_lo = exponent(hi, lo, top, tl.zeros_like(top), factor, MASK, SCALED, FAST)
        y = result(d, d, d_lo, norm, LOG, FAST)
    else:
        y = kept.to(COMPUTE)
    if CAUSAL:
        grad = tl.where(position <= query, grad, 0.0)
    if LOG and MASKED:
        grad = tl.where(y == -_INF, 0.0, grad)
    return grad, y


@triton.jit
def total_of(grad, y, AXIS: tl.constexpr, LOG: tl.constexpr):
    return tl.sum(grad if LOG else grad * y, AXIS, keep_dims=True)


@triton.jit
def gradient(grad, y, total, scale, LOG: tl.constexpr, FAST: tl.constexpr):
    if LOG:
        e = exponential(y, None, SHIFT, FAST)
        return scale * (grad - e * (total * (1 / UNIT) if FAST else total))
    else:
        return scale * y * (grad - total)


@triton.jit
def softmax_rows(
    grad_ptr,
    kept_ptr,
    grad_x_ptr,
    mask_ptr,
    tops_ptr,
    norms_ptr,
    rows,
    n,
    grad_stride,
    kept_stride,
    scale: tl.float64,
    queries,
    size1,
    size2,
    stride0,
    stride1,
    stride2,
    mask_stride,
    LOG: tl.constexpr,
    MASK: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    FROM_INPUT: tl.constexpr,
    SCALED: tl.constexpr,
    NEGATIVE: tl.constexpr,
    ALIGN: tl.constexpr,
    FULL: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    FAST: tl.constexpr = is_fast(kept_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(kept_ptr.dtype)
    n, grad_stride, kept_stride = aligned(n, ALIGN), aligned(grad_stride, ALIGN), aligned(kept_stride, ALIGN)
    scale, factor = factor_of(scale, MASK, COMPUTE)
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    col = tl.arange(0, BLOCK_COLS)[None, :]
    inside = within(row, rows, col, n, BLOCK_ROWS == 1, FULL)
    query = (row % queries).to(tl.int32) if CAUSAL else row
    there = wanted(inside, col, query, CAUSAL)
    mask_ptrs = mask_ptr
    if MASK != NONE:
        mask_ptrs = mask_ptr + mask_offset(row, size1, size2, stride0, stride1, stride2) + col * mask_stride
    grad_ptrs, kept_ptrs = grad_ptr + row * grad_stride + col, kept_ptr + row * kept_stride + col
    grad, kept = load_both(grad_ptrs, kept_ptrs, there, LOG, FROM_INPUT, NEGATIVE)
    top, norm = statistics_of(tops_ptr + row, norms_ptr + row, row < rows, FROM_INPUT, COMPUTE)
    grad, y = operands(
        grad, kept, mask_ptrs, inside, col, query, top, norm, scale, factor, LOG, MASK, CAUSAL, MASKED, FROM_INPUT,
        SCALED, NEGATIVE, COMPUTE, FAST,
    )  # fmt: skip
    total = total_of(grad, y, 1, LOG)
    store_inside(grad_x_ptr + row * n + col, gradient(grad, y, total, scale, LOG, FAST), inside)


@triton.jit
def softmax_long(
    grad_ptr,
    kept_ptr,
    grad_x_ptr,
    mask_ptr,
    tops_ptr,
    norms_ptr,
    partial_ptr,
    counts_ptr,
    splits,
    n,
    grad_stride,
    kept_stride,
    scale: tl.float64,
    queries,
    size1,
    size2,
    stride0,
    stride1,
    stride2,
    mask_stride,
    LOG: tl.constexpr,
    MASK: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    FROM_INPUT: tl.constexpr,
    SCALED: tl.constexpr,
    NEGATIVE: tl.constexpr,
    ALIGN: tl.constexpr,
    FULL: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    FAST: tl.constexpr = is_fast(kept_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(kept_ptr.dtype)
    n, grad_stride, kept_stride = aligned(n, ALIGN), aligned(grad_stride, ALIGN), aligned(kept_stride, ALIGN)
    scale, factor = factor_of(scale, MASK, COMPUTE)
    chunk, row, col = next_chunk(counts_ptr, splits, n, BLOCK)
    query = (row % queries).to(tl.int32) if CAUSAL else row
    inside = within(row, row, col, n, True, FULL)
    there = wanted(inside, col, query, CAUSAL)
    mask_ptrs = mask_ptr
    if MASK != NONE:
        at = mask_offset(row, size1, size2, stride0, stride1, stride2)
        mask_ptrs = mask_ptr + at + col.to(tl.int64) * mask_stride
    grad_ptrs, kept_ptrs = grad_ptr + row * grad_stride + col, kept_ptr + row * kept_stride + col
    grad, kept = load_both(grad_ptrs, kept_ptrs, there, LOG, FROM_INPUT, NEGATIVE)
    top, norm = statistics_of(tops_ptr + row, norms_ptr + row, None, FROM_INPUT, COMPUTE)
    grad, y = operands(
        grad, kept, mask_ptrs, inside, col, query, top, norm, scale, factor, LOG, MASK, CAUSAL, MASKED, FROM_INPUT,
        SCALED, NEGATIVE, COMPUTE, FAST,
    )  # fmt: skip
    total = exchanged_total(partial_ptr, counts_ptr, chunk, row, splits, total_of(grad, y, 1, LOG), PARTS)
    store_inside(grad_x_ptr + row * n + col, gradient(grad, y, total, scale, LOG, FAST), inside)


@triton.jit
def softmax_columns(
    grad_ptr,
    kept_ptr,
    grad_x_ptr,
    mask_ptr,
    tops_ptr,
    norms_ptr,
    n,
    inner,
    grad_stride,
    kept_stride,
    scale: tl.float64,
    queries,
    size1,
    size2,
    stride0,
    stride1,
    stride2,
    mask_stride,
    inner_stride,
    LOG: tl.constexpr,
    MASK: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    FROM_INPUT: tl.constexpr,
    SCALED: tl.constexpr,
    NEGATIVE: tl.constexpr,
    ALIGN: tl.constexpr,
    ONCE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_INNER: tl.constexpr,
):
    FAST: tl.constexpr = is_fast(kept_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(kept_ptr.dtype)
    inner, grad_stride = aligned(inner, ALIGN), aligned(grad_stride, ALIGN)
    kept_stride = aligned(kept_stride, ALIGN)
    scale, factor = factor_of(scale, MASK, COMPUTE)
    across = tl.cdiv(inner, BLOCK_INNER)
    outer = (tl.program_id(0) // across).to(tl.int64)
    col = (0 if inner == 1 else tl.program_id(0) % across * BLOCK_INNER) + tl.arange(0, BLOCK_INNER)[None, :]
    position = tl.arange(0, BLOCK_N)[:, None]
    query = (outer % queries).to(tl.int32) if CAUSAL else outer
    grad_at, kept_at = grad_ptr + outer * grad_stride + col, kept_ptr + outer * kept_stride + col
    out_at = grad_x_ptr + outer * n * inner + col
    mask_at = mask_ptr
    if MASK != NONE:
        at = mask_offset(outer, size1, size2, stride0, stride1, stride2)
        mask_at = mask_ptr + at + col.to(tl.int64) * inner_stride
    row = outer * inner + col
    top, norm = statistics_of(tops_ptr + row, norms_ptr + row, col < inner, FROM_INPUT, COMPUTE)
    if ONCE:
        inside = (position < n) & (col < inner)
        offset = position.to(tl.int64) * inner
        there = wanted(inside, position, query, CAUSAL)
        mask_ptrs = mask_at + position.to(tl.int64) * mask_stride if MASK != NONE else mask_at
        grad, kept = load_both(grad_at + offset, kept_at + offset, there, LOG, FROM_INPUT, NEGATIVE)
        grad, y = operands(
            grad, kept, mask_ptrs, inside, position, query, top, norm, scale, factor, LOG, MASK, CAUSAL, MASKED,
            FROM_INPUT, SCALED, NEGATIVE, COMPUTE, FAST,
        )  # fmt: skip
        store_inside(out_at + offset, gradient(grad, y, total_of(grad, y, 0, LOG), scale, LOG, FAST), inside)
    else:
        total = tl.zeros([1, BLOCK_INNER], COMPUTE)
        for start in range(0, n, BLOCK_N):
            here = start + position
            inside = (here < n) & (col < inner)
            offset = here.to(tl.int64) * inner
            there = wanted(inside, here, query, CAUSAL)
            mask_ptrs = mask_at + here.to(tl.int64) * mask_stride if MASK != NONE else mask_at
            grad, kept = load_both(grad_at + offset, kept_at + offset, there, LOG, FROM_INPUT, NEGATIVE)
            grad, y = operands(
                grad, kept, mask_ptrs, inside, here, query, top, norm, scale, factor, LOG, MASK, CAUSAL, MASKED,
                FROM_INPUT, SCALED, NEGATIVE, COMPUTE, FAST,
            )  # fmt: skip
            total += total_of(grad, y, 0, LOG)
        for start in range(0, n, BLOCK_N):
            here = start + position
            inside = (here < n) & (col < inner)
            offset = here.to(tl.int64) * inner
            there = wanted(inside, here, query, CAUSAL)
            mask_ptrs = mask_at + here.to(tl.int64) * mask_stride if MASK != NONE else mask_at
            grad, kept = load_both(grad_at + offset, kept_at + offset, there, LOG, FROM_INPUT, NEGATIVE)
            grad, y = operands(
                grad, kept, mask_ptrs, inside, here, query, top, norm, scale, factor, LOG, MASK, CAUSAL, MASKED,
                FROM_INPUT, SCALED, NEGATIVE, COMPUTE, FAST,
            )  # fmt: skip
            store_inside(out_at + offset, gradient(grad, y, total, scale, LOG, FAST), inside)
