"""The gradients of softmax and log_softmax from their outputs; the kernels divide the work as the forward ones do."""

import triton
import triton.language as tl

from .reducing_tiles import aligned, compute_type, exponential, is_fast, load, store, store_row, wanted, within

_INF = tl.constexpr(float("inf"))


@triton.jit
def _load(grad_ptrs, y_ptrs, there, LOG: tl.constexpr, EVICT: tl.constexpr):
    return load(grad_ptrs, there, 0.0, EVICT), load(y_ptrs, there, -_INF if LOG else 0.0, EVICT)


@triton.jit
def _operands(
    grad, y, inside, position, query, LOG: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
    COMPUTE: tl.constexpr, SKEW: tl.constexpr,
):  # fmt: skip
    """A loaded tile of gradients and outputs. What a mask removed has an output of 0 (-inf), and no gradient."""
    grad, y = grad.to(COMPUTE), y.to(COMPUTE)
    if SKEW > 1:
        grad = tl.where(inside, grad, 0.0)
        y = tl.where(inside, y, -_INF if LOG else 0.0)
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
    SKEW: tl.constexpr,
    FULL: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    FAST: tl.constexpr = is_fast(y_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(y_ptr.dtype)
    n, grad_stride = aligned(n, ALIGN), aligned(grad_stride, ALIGN)
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    lane = tl.arange(0, BLOCK_COLS)[None, :]
    skew = row * n % SKEW
    col = lane - skew
    query = (row % queries).to(tl.int32) if CAUSAL else row
    inside = within(row, rows, col, n, BLOCK_ROWS == 1, FULL, SKEW)
    there = wanted(inside, lane, skew, n, query, CAUSAL, SKEW)
    at = row * n // SKEW * SKEW + lane
    grad, y = _load(grad_ptr + row * grad_stride // SKEW * SKEW + lane, y_ptr + at, there, LOG, "")
    grad, y = _operands(grad, y, inside, col, query, LOG, CAUSAL, MASKED, COMPUTE, SKEW)
    found = _gradient(grad, y, _total(grad, y, 1, LOG), tl.full((), scale, COMPUTE), LOG, FAST)
    store_row(grad_x_ptr + at, found, inside, lane, skew, n, SKEW)


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
    SKEW: tl.constexpr,
    FULL: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
    TICKET: tl.constexpr,
    KEEP_IN: tl.constexpr,
    LET_GO: tl.constexpr,
):
    FAST: tl.constexpr = is_fast(y_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(y_ptr.dtype)
    n, grad_stride = aligned(n, ALIGN), aligned(grad_stride, ALIGN)
    if TICKET:
        slot = tl.atomic_add(done_ptr + chunks // splits, 1, sem="relaxed")
    else:
        slot = tl.program_id(0)
    chunk, chunk2 = tl.minimum(slot, chunks - 1), tl.maximum(slot - lag, 0)
    row, row2 = (chunk // splits).to(tl.int64), (chunk2 // splits).to(tl.int64)
    lane = chunk % splits * BLOCK + tl.arange(0, BLOCK)[None, :]
    lane2 = chunk2 % splits * BLOCK + tl.arange(0, BLOCK)[None, :]
    skew, skew2 = row * n % SKEW, row2 * n % SKEW
    col, col2 = lane - skew, lane2 - skew2
    query = (row % queries).to(tl.int32) if CAUSAL else row
    query2 = (row2 % queries).to(tl.int32) if CAUSAL else row2
    inside = within(row, row, col, n, True, FULL, SKEW)
    inside2 = within(row2, row2, col2, n, True, FULL, SKEW)
    there = wanted(inside, lane, skew, n, query, CAUSAL, SKEW)
    there2 = wanted(inside2, lane2, skew2, n, query2, CAUSAL, SKEW)
    at, at2 = row * n // SKEW * SKEW + lane, row2 * n // SKEW * SKEW + lane2
    grad, y = _load(grad_ptr + row * grad_stride // SKEW * SKEW + lane, y_ptr + at, there, LOG, KEEP_IN)
    grad2, y2 = _load(grad_ptr + row2 * grad_stride // SKEW * SKEW + lane2, y_ptr + at2, there2, LOG, LET_GO)
    if slot < chunks:
        g, p = _operands(grad, y, inside, col, query, LOG, CAUSAL, MASKED, COMPUTE, SKEW)
        tl.store(partial_ptr + slot + tl.zeros([1, 1], tl.int32), _total(g, p, 1, LOG))
        tl.debug_barrier()
        tl.atomic_add(done_ptr + row, 1, sem="release")
    if slot >= lag:
        done = tl.atomic_add(done_ptr + row2, 0, sem="acquire")
        while done < splits:
            done = tl.atomic_add(done_ptr + row2, 0, sem="acquire")
        tl.debug_barrier()
        total = tl.zeros([1, 1], COMPUTE)
        for start in range(0, splits, PARTS):
            part = start + tl.arange(0, PARTS)[None, :]
            parts = tl.load(partial_ptr + row2 * splits + part, mask=part < splits, other=0.0, cache_modifier=".cg")
            total += tl.sum(parts, 1, keep_dims=True)
        g, p = _operands(grad2, y2, inside2, col2, query2, LOG, CAUSAL, MASKED, COMPUTE, SKEW)
        found = _gradient(g, p, total, tl.full((), scale, COMPUTE), LOG, FAST)
        store_row(grad_x_ptr + at2, found, inside2, lane2, skew2, n, SKEW)


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
        there = wanted(inside, position, 0, n, query, CAUSAL, 1)
        grad, y = _load(grad_at + offset, y_ptr + at + offset, there, LOG, "")
        grad, y = _operands(grad, y, inside, position, query, LOG, CAUSAL, MASKED, COMPUTE, 1)
        store(grad_x_ptr + at + offset, _gradient(grad, y, _total(grad, y, 0, LOG), scale, LOG, FAST), inside)
    else:
        total = tl.zeros([1, BLOCK_INNER], COMPUTE)
        for start in range(0, n, BLOCK_N):
            here = start + position
            inside = (here < n) & (col < inner)
            offset = here.to(tl.int64) * inner
            there = wanted(inside, here, 0, n, query, CAUSAL, 1)
            grad, y = _load(grad_at + offset, y_ptr + at + offset, there, LOG, "")
            grad, y = _operands(grad, y, inside, here, query, LOG, CAUSAL, MASKED, COMPUTE, 1)
            total += _total(grad, y, 0, LOG)
        for start in range(0, n, BLOCK_N):
            here = start + position
            inside = (here < n) & (col < inner)
            offset = here.to(tl.int64) * inner
            there = wanted(inside, here, 0, n, query, CAUSAL, 1)
            grad, y = _load(grad_at + offset, y_ptr + at + offset, there, LOG, "")
            grad, y = _operands(grad, y, inside, here, query, LOG, CAUSAL, MASKED, COMPUTE, 1)
            store(grad_x_ptr + at + offset, _gradient(grad, y, total, scale, LOG, FAST), inside)
