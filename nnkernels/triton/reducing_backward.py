"""The gradients of softmax and log_softmax from their outputs; the kernels divide the work as the forward ones do."""

import triton
import triton.language as tl

from .math import compute_type, is_fast
from .reducing_tiles import (
    KEPT,
    aligned,
    exponential,
    load,
    next_chunk,
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
    counts_ptr,
    splits,
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
    chunk, row, col = next_chunk(counts_ptr, splits, n, BLOCK)
    query = (row % queries).to(tl.int32) if CAUSAL else row
    inside = within(row, row, col, n, True, FULL)
    there = wanted(inside, col, query, CAUSAL)
    at = row * n + col
    grad, y = _load(grad_ptr + row * grad_stride + col, y_ptr + at, there, LOG)
    grad, y = _operands(grad, y, col, query, LOG, CAUSAL, MASKED, COMPUTE)
    tl.store(partial_ptr + KEPT * chunk + tl.zeros([1, 1], tl.int32), _total(grad, y, 1, LOG))
    publish(counts_ptr + 1 + row)
    wait(counts_ptr + 1 + row, splits)
    part = tl.arange(0, PARTS)
    parts = partial_ptr + KEPT * (row * splits + part)
    total = tl.sum(tl.load(parts, mask=part < splits, other=0.0, cache_modifier=".cg"), 0)
    found = _gradient(grad, y, total, tl.full((), scale, COMPUTE), LOG, FAST)
    store(grad_x_ptr + at, found, inside)


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
    col = (0 if inner == 1 else tl.program_id(0) % across * BLOCK_INNER) + tl.arange(0, BLOCK_INNER)[None, :]
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
