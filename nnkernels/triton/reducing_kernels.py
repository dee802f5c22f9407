"""softmax and log_softmax over (outer, n, inner).

rows     inner = 1, and a row fits into registers: some rows to a program, one read and one write
long     inner = 1, longer rows, each cut into chunks: a program sums up one chunk and writes an earlier one, of a row
         that is summed up already, reading it again while it is still in the L2 cache
columns  inner > 1: tiles of (n, inner), read twice if n is long
"""

import triton
import triton.language as tl

from .reducing_tiles import (
    ADD,
    NONE,
    SHIFT,
    aligned,
    chunk_place,
    compute_type,
    exponent,
    exponential,
    factor_of,
    finite,
    is_fast,
    join,
    load_logits,
    logits,
    mask_offset,
    maximum,
    norm_of,
    publish,
    result,
    store,
    sums,
    wait,
    wanted,
    within,
)

_INF = tl.constexpr(float("inf"))


@triton.jit
def softmax_rows(
    x_ptr,
    y_ptr,
    mask_ptr,
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
    ALIGN: tl.constexpr,
    FULL: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """FULL says that a row has exactly BLOCK_COLS columns."""
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
    store(y_ptr + row * n + col, result(e, d, d_lo, norm, LOG, FAST), inside)


@triton.jit
def softmax_long(
    x_ptr,
    y_ptr,
    mask_ptr,
    partial_ptr,
    done_ptr,
    chunks,
    splits,
    lag,
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
    ALIGN: tl.constexpr,
    FULL: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Program i sums up chunk i and writes chunk i - lag, which it finds in the L2 cache. The lag is at least a row, so
    that it waits only for programs of lower numbers, which were started before. FULL says that BLOCK divides n."""
    FAST: tl.constexpr = is_fast(y_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(y_ptr.dtype)
    MASKED: tl.constexpr = CAUSAL or MASK != NONE
    n, x_stride = aligned(n, ALIGN), aligned(x_stride, ALIGN)
    scale, factor = factor_of(scale, MASK, COMPUTE)
    slot = tl.program_id(0)
    # Both chunks are read before anything is waited for; where there is none, another one, for nothing.
    row, col, query, mask_ptrs = _place(
        tl.minimum(slot, chunks - 1), mask_ptr, splits, n, queries, size1, size2, stride0, stride1, stride2,
        mask_stride, MASK, CAUSAL, BLOCK,
    )  # fmt: skip
    row2, col2, query2, mask_ptrs2 = _place(
        tl.maximum(slot - lag, 0), mask_ptr, splits, n, queries, size1, size2, stride0, stride1, stride2,
        mask_stride, MASK, CAUSAL, BLOCK,
    )  # fmt: skip
    inside = within(row, row, col, n, True, FULL)
    inside2 = within(row2, row2, col2, n, True, FULL)
    x2 = load_logits(x_ptr + row2 * x_stride + col2, wanted(inside2, col2, query2, CAUSAL), NEGATIVE)
    x = load_logits(x_ptr + row * x_stride + col, wanted(inside, col, query, CAUSAL), NEGATIVE)
    top = tl.full([1, 1], -_INF, COMPUTE)
    top_lo = tl.zeros([1, 1], COMPUTE)
    total = tl.zeros([1, 1], COMPUTE)
    tops = tl.zeros([1, 1], COMPUTE)
    if slot >= lag:
        wait(done_ptr + row2, splits)
        for start in range(0, splits, PARTS):
            part = start + tl.arange(0, PARTS)[None, :]
            # Past the L1 cache, which may hold these lines as they were before other programs wrote them.
            parts = partial_ptr + row2 * splits + part
            exists = part < splits
            top2 = tl.load(parts, mask=exists, other=-_INF, cache_modifier=".cg")
            total2 = tl.load(parts + chunks, mask=exists, other=0.0, cache_modifier=".cg")
            tops2, top2_lo = tl.zeros_like(top2), tl.zeros_like(top2)
            if LOG:
                tops2 = tl.load(parts + 2 * chunks, mask=exists, other=0.0, cache_modifier=".cg")
            if MASK == ADD:
                top2_lo = tl.load(parts + 3 * chunks, mask=exists, other=0.0, cache_modifier=".cg")
            top, top_lo, total, tops = join(
                top, top_lo, total, tops, top2, top2_lo, total2, tops2, factor, 1, LOG, MASK, SCALED, FAST
            )
        if MASKED:
            top, top_lo = finite(top, top_lo)
    if slot < chunks:
        hi, lo = logits(x, mask_ptrs, inside, col, query, scale, MASK, CAUSAL, NEGATIVE, COMPUTE)
        top2, top2_lo = maximum(hi, lo, 1, MASK)
        base, base_lo = finite(top2, top2_lo)
        d, d_lo = exponent(hi, lo, base, base_lo, factor, MASK, SCALED, FAST)
        total2, tops2 = sums(exponential(d, d_lo, SHIFT, FAST), d, d_lo, 1, LOG, FAST)
        parts = partial_ptr + slot + tl.zeros([1, 1], tl.int32)
        tl.store(parts, top2)
        tl.store(parts + chunks, total2)
        if LOG:
            tl.store(parts + 2 * chunks, tops2)
        if MASK == ADD:
            tl.store(parts + 3 * chunks, top2_lo)
        publish(done_ptr + row)
    if slot >= lag:
        norm = norm_of(total, tops, LOG, MASKED, FAST)
        hi, lo = logits(x2, mask_ptrs2, inside2, col2, query2, scale, MASK, CAUSAL, NEGATIVE, COMPUTE)
        d, d_lo = exponent(hi, lo, top, top_lo, factor, MASK, SCALED, FAST)
        y = result(exponential(d, d_lo, SHIFT, FAST), d, d_lo, norm, LOG, FAST)
        store(y_ptr + row2 * n + col2, y, inside2)


@triton.jit
def _place(
    chunk, mask_ptr, splits, n, queries, size1, size2, stride0, stride1, stride2, mask_stride, MASK: tl.constexpr,
    CAUSAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of a chunk: its row, columns, query, and where the mask lies."""
    row, col = chunk_place(chunk, splits, n, BLOCK)
    mask_ptrs = mask_ptr
    if MASK != NONE:
        at = mask_offset(row, size1, size2, stride0, stride1, stride2)
        mask_ptrs = mask_ptr + at + col.to(tl.int64) * mask_stride
    query = (row % queries).to(tl.int32) if CAUSAL else row
    return row, col, query, mask_ptrs


@triton.jit
def softmax_columns(
    x_ptr,
    y_ptr,
    mask_ptr,
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
    col = tl.program_id(0) % across * BLOCK_INNER + tl.arange(0, BLOCK_INNER)[None, :]
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
        store(y_at + position.to(tl.int64) * inner, result(e, d, d_lo, norm, LOG, FAST), inside)
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
            store(y_at + here.to(tl.int64) * inner, y, inside)
