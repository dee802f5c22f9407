"""softmax and log_softmax over (outer, n, inner).

rows     inner = 1, and a row fits into registers: some rows to a program, one read and one write
long     inner = 1, a longer row: some programs hold a chunk each, and wait for each other's sums
columns  tiles of (n, inner), read twice if n is long; also rows of more chunks than a GPU works on at once
"""

import triton
import triton.language as tl

from .math import compute_type, is_fast
from .reducing_tiles import (
    NONE,
    SHIFT,
    aligned,
    chunk_result,
    exchanged,
    exponent,
    exponential,
    factor_of,
    finite,
    join,
    keep,
    load_logits,
    logits,
    mask_offset,
    maximum,
    next_chunk,
    norm_of,
    result,
    sums,
    wanted,
    within,
)
from .tiles import store_inside

_INF = tl.constexpr(float("inf"))


@triton.jit
def softmax_rows(
    x_ptr,
    y_ptr,
    mask_ptr,
    tops_ptr,
    norms_ptr,
    rows,
    n,
    x_stride,
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
    SCALED: tl.constexpr,
    NEGATIVE: tl.constexpr,
    KEEPS: tl.constexpr,
    ALIGN: tl.constexpr,
    FULL: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """FULL says that a row has exactly BLOCK_COLS columns, KEEPS that its statistics are wanted."""
    FAST: tl.constexpr = is_fast(y_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(y_ptr.dtype)
    MASKED: tl.constexpr = CAUSAL or MASK != NONE
    n, x_stride = aligned(n, ALIGN), aligned(x_stride, ALIGN)
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    col = tl.arange(0, BLOCK_COLS)[None, :]
    query = (row % queries).to(tl.int32) if CAUSAL else row
    inside = within(row, rows, col, n, BLOCK_ROWS == 1, FULL)
    there = wanted(inside, col, query, CAUSAL)
    scale, factor = factor_of(scale, MASK, COMPUTE)
    mask_ptrs = mask_ptr
    if MASK != NONE:
        mask_ptrs = mask_ptr + mask_offset(row, size1, size2, stride0, stride1, stride2) + col * mask_stride
    x = load_logits(x_ptr + row * x_stride + col, there, NEGATIVE)
    hi, lo = logits(x, mask_ptrs, inside, col, query, scale, MASK, CAUSAL, NEGATIVE, COMPUTE)
    top, top_lo = maximum(hi, lo, 1, MASK)
    if MASKED:
        top, top_lo = finite(top, top_lo)
    d, d_lo = exponent(hi, lo, top, top_lo, factor, MASK, SCALED, FAST)
    e = exponential(d, d_lo, SHIFT, FAST)
    total, tops = sums(e, d, d_lo, 1, LOG, FAST)
    norm = norm_of(total, tops, LOG, MASKED, FAST)
    store_inside(y_ptr + row * n + col, result(e, d, d_lo, norm, LOG, FAST), inside)
    if KEEPS:
        keep(tops_ptr + row, norms_ptr + row, top, top_lo, norm, row < rows)


@triton.jit
def softmax_long(
    x_ptr,
    y_ptr,
    mask_ptr,
    tops_ptr,
    norms_ptr,
    partial_ptr,
    counts_ptr,
    splits,
    n,
    x_stride,
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
    SCALED: tl.constexpr,
    NEGATIVE: tl.constexpr,
    KEEPS: tl.constexpr,
    ALIGN: tl.constexpr,
    FULL: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Chunks are given out in the order in which programs start, so that those of a row are at work together: all
    `splits` of them have to fit on the device. FULL says that BLOCK divides n."""
    FAST: tl.constexpr = is_fast(y_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(y_ptr.dtype)
    MASKED: tl.constexpr = CAUSAL or MASK != NONE
    n, x_stride = aligned(n, ALIGN), aligned(x_stride, ALIGN)
    scale, factor = factor_of(scale, MASK, COMPUTE)
    chunk, row, col = next_chunk(counts_ptr, splits, n, BLOCK)
    query = (row % queries).to(tl.int32) if CAUSAL else row
    mask_ptrs = mask_ptr
    if MASK != NONE:
        at = mask_offset(row, size1, size2, stride0, stride1, stride2)
        mask_ptrs = mask_ptr + at + col.to(tl.int64) * mask_stride
    inside = within(row, row, col, n, True, FULL)
    x = load_logits(x_ptr + row * x_stride + col, wanted(inside, col, query, CAUSAL), NEGATIVE)
    hi, lo = logits(x, mask_ptrs, inside, col, query, scale, MASK, CAUSAL, NEGATIVE, COMPUTE)
    own, own_lo = maximum(hi, lo, 1, MASK)
    base, base_lo = finite(own, own_lo)
    d, d_lo = exponent(hi, lo, base, base_lo, factor, MASK, SCALED, FAST)
    e = exponential(d, d_lo, SHIFT, FAST)
    own_total, own_tops = sums(e, d, d_lo, 1, LOG, FAST)
    top, top_lo, total, tops = exchanged(
        partial_ptr, counts_ptr, chunk, row, splits, own, own_lo, own_total, own_tops, factor, LOG, MASK, SCALED, FAST,
        PARTS,
    )  # fmt: skip
    if MASKED:
        top, top_lo = finite(top, top_lo)
    norm = norm_of(total, tops, LOG, MASKED, FAST)
    y = chunk_result(e, hi, lo, own, own_lo, top, top_lo, norm, factor, LOG, MASK, SCALED, FAST)
    store_inside(y_ptr + row * n + col, y, inside)
    if KEEPS:
        keep(tops_ptr + row, norms_ptr + row, top, top_lo, norm, chunk % splits == 0)


@triton.jit
def softmax_columns(
    x_ptr,
    y_ptr,
    mask_ptr,
    tops_ptr,
    norms_ptr,
    n,
    inner,
    x_stride,
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
    SCALED: tl.constexpr,
    NEGATIVE: tl.constexpr,
    KEEPS: tl.constexpr,
    ALIGN: tl.constexpr,
    ONCE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_INNER: tl.constexpr,
):
    """ONCE says that BLOCK_N holds all of n."""
    FAST: tl.constexpr = is_fast(y_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(y_ptr.dtype)
    MASKED: tl.constexpr = CAUSAL or MASK != NONE
    inner, x_stride = aligned(inner, ALIGN), aligned(x_stride, ALIGN)
    across = tl.cdiv(inner, BLOCK_INNER)
    outer = (tl.program_id(0) // across).to(tl.int64)
    col = (0 if inner == 1 else tl.program_id(0) % across * BLOCK_INNER) + tl.arange(0, BLOCK_INNER)[None, :]
    position = tl.arange(0, BLOCK_N)[:, None]
    scale, factor = factor_of(scale, MASK, COMPUTE)
    mask_at = mask_ptr
    if MASK != NONE:
        at = mask_offset(outer, size1, size2, stride0, stride1, stride2)
        mask_at = mask_ptr + at + col.to(tl.int64) * inner_stride
    query = (outer % queries).to(tl.int32) if CAUSAL else outer
    x_at = x_ptr + outer * x_stride + col
    y_at = y_ptr + outer * n * inner + col
    if ONCE:
        inside = (position < n) & (col < inner)
        mask_ptrs = mask_at + position.to(tl.int64) * mask_stride if MASK != NONE else mask_at
        there = wanted(inside, position, query, CAUSAL)
        x = load_logits(x_at + position.to(tl.int64) * inner, there, NEGATIVE)
        hi, lo = logits(x, mask_ptrs, inside, position, query, scale, MASK, CAUSAL, NEGATIVE, COMPUTE)
        top, top_lo = maximum(hi, lo, 0, MASK)
        if MASKED:
            top, top_lo = finite(top, top_lo)
        d, d_lo = exponent(hi, lo, top, top_lo, factor, MASK, SCALED, FAST)
        e = exponential(d, d_lo, SHIFT, FAST)
        total, tops = sums(e, d, d_lo, 0, LOG, FAST)
        norm = norm_of(total, tops, LOG, MASKED, FAST)
        store_inside(y_at + position.to(tl.int64) * inner, result(e, d, d_lo, norm, LOG, FAST), inside)
        if KEEPS:
            keep(tops_ptr + outer * inner + col, norms_ptr + outer * inner + col, top, top_lo, norm, col < inner)
    else:
        top = tl.full([1, BLOCK_INNER], -_INF, COMPUTE)
        top_lo = tl.zeros([1, BLOCK_INNER], COMPUTE)
        total = tl.zeros([1, BLOCK_INNER], COMPUTE)
        tops = tl.zeros([1, BLOCK_INNER], COMPUTE)
        for start in range(0, n, BLOCK_N):
            here = start + position
            inside = (here < n) & (col < inner)
            mask_ptrs = mask_at + here.to(tl.int64) * mask_stride if MASK != NONE else mask_at
            there = wanted(inside, here, query, CAUSAL)
            x = load_logits(x_at + here.to(tl.int64) * inner, there, NEGATIVE)
            hi, lo = logits(x, mask_ptrs, inside, here, query, scale, MASK, CAUSAL, NEGATIVE, COMPUTE)
            top2, top2_lo = maximum(hi, lo, 0, MASK)
            base, base_lo = finite(top2, top2_lo)
            d, d_lo = exponent(hi, lo, base, base_lo, factor, MASK, SCALED, FAST)
            total2, tops2 = sums(exponential(d, d_lo, SHIFT, FAST), d, d_lo, 0, LOG, FAST)
            top, top_lo, total, tops = join(
                top, top_lo, total, tops, top2, top2_lo, total2, tops2, factor, 0, LOG, MASK, SCALED, FAST
            )
        if MASKED:
            top, top_lo = finite(top, top_lo)
        norm = norm_of(total, tops, LOG, MASKED, FAST)
        for start in range(0, n, BLOCK_N):
            here = start + position
            inside = (here < n) & (col < inner)
            mask_ptrs = mask_at + here.to(tl.int64) * mask_stride if MASK != NONE else mask_at
            there = wanted(inside, here, query, CAUSAL)
            x = load_logits(x_at + here.to(tl.int64) * inner, there, NEGATIVE)
            hi, lo = logits(x, mask_ptrs, inside, here, query, scale, MASK, CAUSAL, NEGATIVE, COMPUTE)
            d, d_lo = exponent(hi, lo, top, top_lo, factor, MASK, SCALED, FAST)
            y = result(exponential(d, d_lo, SHIFT, FAST), d, d_lo, norm, LOG, FAST)
            store_inside(y_at + here.to(tl.int64) * inner, y, inside)
        if KEEPS:
            keep(tops_ptr + outer * inner + col, norms_ptr + outer * inner + col, top, top_lo, norm, col < inner)
