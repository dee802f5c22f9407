"""The gradients of softmax and log_softmax from their outputs; the kernels divide the work as the forward ones do."""

import triton
import triton.language as tl

from .reducing_tiles import (
    aligned,
    chunk_place,
    compute_type,
    exponential,
    is_fast,
    load,
    publish,
    store,
    wait,
    wanted,
    within,
)

_INF = tl.constexpr(float("inf"))


@triton.jit
def _load(grad_ptrs, y_ptrs, there, LOG: tl.constexpr):
    return load(grad_ptrs, there, 0.0), load(y_ptrs, there, -_INF if LOG else 0.0)


@triton.jit
def _operands(
    grad, y, position, query, LOG: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr, COMPUTE: tl.constexpr
):
    """A loaded tile of gradients and outputs. What a mask removed has an output of 0 (-inf), and no gradient."""
    grad, y = grad.to(COMPUTE), y.to(COMPUTE)
    if CAUSAL:
        grad = tl.where(position <= query, grad, 0.0)
    if LOG and MASKED:
        grad = tl.where(y == -_INF, 0.0, grad)
    return grad, y


@triton.jit
def _total(grad, y, AXIS: tl.constexpr, LOG: tl.constexpr):
    return tl.sum(grad if LOG else grad * y, AXIS, keep_dims=True)


@triton.jit
def _gradient(grad, y, total, scale, LOG: tl.constexpr, FAST: tl.constexpr):
    if LOG:
        return scale * (grad - exponential(y, None, 0.0, FAST) * total)
    else:
        return scale * y * (grad - total)


@triton.jit
def softmax_rows(
    grad_ptr,
    y_ptr,
    grad_x_ptr,
    rows,
    n,
    grad_stride,
    scale: tl.float64,
    queries,
    LOG: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    ALIGN: tl.constexpr,
    FULL: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    FAST: tl.constexpr = is_fast(y_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(y_ptr.dtype)
    n, grad_stride = aligned(n, ALIGN), aligned(grad_stride, ALIGN)
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    col = tl.arange(0, BLOCK_COLS)[None, :]
    inside = within(row, rows, col, n, BLOCK_ROWS == 1, FULL)
    query = (row % queries).to(tl.int32) if CAUSAL else row
    at = row * n + col
    there = wanted(inside, col, query, CAUSAL)
    grad, y = _load(grad_ptr + row * grad_stride + col, y_ptr + at, there, LOG)
    grad, y = _operands(grad, y, col, query, LOG, CAUSAL, MASKED, COMPUTE)
    total = _total(grad, y, 1, LOG)
    store(grad_x_ptr + at, _gradient(grad, y, total, tl.full((), scale, COMPUTE), LOG, FAST), inside)


@triton.jit
def softmax_long(
    grad_ptr,
    y_ptr,
    grad_x_ptr,
    partial_ptr,
    done_ptr,
    chunks,
    splits,
    lag,
    n,
    grad_stride,
    scale: tl.float64,
    queries,
    LOG: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    ALIGN: tl.constexpr,
    FULL: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    FAST: tl.constexpr = is_fast(y_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(y_ptr.dtype)
    n, grad_stride = aligned(n, ALIGN), aligned(grad_stride, ALIGN)
    slot = tl.program_id(0)
    row, col = chunk_place(tl.minimum(slot, chunks - 1), splits, n, BLOCK)
    row2, col2 = chunk_place(tl.maximum(slot - lag, 0), splits, n, BLOCK)
    query = (row % queries).to(tl.int32) if CAUSAL else row
    query2 = (row2 % queries).to(tl.int32) if CAUSAL else row2
    inside = within(row, row, col, n, True, FULL)
    inside2 = within(row2, row2, col2, n, True, FULL)
    at, at2 = row * n + col, row2 * n + col2
    there = wanted(inside, col, query, CAUSAL)
    there2 = wanted(inside2, col2, query2, CAUSAL)
    grad2, y2 = _load(grad_ptr + row2 * grad_stride + col2, y_ptr + at2, there2, LOG)
    grad, y = _load(grad_ptr + row * grad_stride + col, y_ptr + at, there, LOG)
    total = tl.zeros([1, 1], COMPUTE)
    if slot >= lag:
        wait(done_ptr + row2, splits)
        for start in range(0, splits, PARTS):
            part = start + tl.arange(0, PARTS)[None, :]
            parts = tl.load(partial_ptr + row2 * splits + part, mask=part < splits, other=0.0, cache_modifier=".cg")
            total += tl.sum(parts, 1, keep_dims=True)
    if slot < chunks:
        g, p = _operands(grad, y, col, query, LOG, CAUSAL, MASKED, COMPUTE)
        tl.store(partial_ptr + slot + tl.zeros([1, 1], tl.int32), _total(g, p, 1, LOG))
        publish(done_ptr + row)
    if slot >= lag:
        g, p = _operands(grad2, y2, col2, query2, LOG, CAUSAL, MASKED, COMPUTE)
        found = _gradient(g, p, total, tl.full((), scale, COMPUTE), LOG, FAST)
        store(grad_x_ptr + at2, found, inside2)


@triton.jit
def softmax_columns(
    grad_ptr,
    y_ptr,
    grad_x_ptr,
    n,
    inner,
    grad_stride,
    scale: tl.float64,
    queries,
    LOG: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    ALIGN: tl.constexpr,
    ONCE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_INNER: tl.constexpr,
):
    FAST: tl.constexpr = is_fast(y_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(y_ptr.dtype)
    inner, grad_stride = aligned(inner, ALIGN), aligned(grad_stride, ALIGN)
    across = tl.cdiv(inner, BLOCK_INNER)
    outer = (tl.program_id(0) // across).to(tl.int64)
    col = tl.program_id(0) % across * BLOCK_INNER + tl.arange(0, BLOCK_INNER)[None, :]
    position = tl.arange(0, BLOCK_N)[:, None]
    query = (outer % queries).to(tl.int32) if CAUSAL else outer
    grad_at = grad_ptr + outer * grad_stride + col
    at = outer * n * inner + col
    scale = tl.full((), scale, COMPUTE)
    if ONCE:
        inside = (position < n) & (col < inner)
        offset = position.to(tl.int64) * inner
        there = wanted(inside, position, query, CAUSAL)
        grad, y = _load(grad_at + offset, y_ptr + at + offset, there, LOG)
        grad, y = _operands(grad, y, position, query, LOG, CAUSAL, MASKED, COMPUTE)
        store(grad_x_ptr + at + offset, _gradient(grad, y, _total(grad, y, 0, LOG), scale, LOG, FAST), inside)
    else:
        total = tl.zeros([1, BLOCK_INNER], COMPUTE)
        for start in range(0, n, BLOCK_N):
            here = start + position
            inside = (here < n) & (col < inner)
            offset = here.to(tl.int64) * inner
            there = wanted(inside, here, query, CAUSAL)
            grad, y = _load(grad_at + offset, y_ptr + at + offset, there, LOG)
            grad, y = _operands(grad, y, here, query, LOG, CAUSAL, MASKED, COMPUTE)
            total += _total(grad, y, 0, LOG)
        for start in range(0, n, BLOCK_N):
            here = start + position
            inside = (here < n) & (col < inner)
            offset = here.to(tl.int64) * inner
            there = wanted(inside, here, query, CAUSAL)
            grad, y = _load(grad_at + offset, y_ptr + at + offset, there, LOG)
            grad, y = _operands(grad, y, here, query, LOG, CAUSAL, MASKED, COMPUTE)
            store(grad_x_ptr + at + offset, _gradient(grad, y, total, scale, LOG, FAST), inside)
