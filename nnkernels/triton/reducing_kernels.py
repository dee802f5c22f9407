"""softmax and log_softmax, and their gradients from the output, over (outer, n, inner).

    rows     inner = 1, and a row fits into registers: some rows to a program, one read and one write
    columns  tiles of (n, inner), read twice if n is long; also rows too long for registers, with inner = 1

A logit is held as hi + lo only if a mask was added to it. Exponentials of what 16 bits will keep are held 2^16 times as
large, since exp2 flushes subnormal numbers, which bfloat16 has.
"""

import triton
import triton.language as tl

from .math import divide, exp_parts, log1p_ratio

NONE, KEEP, ADD = (tl.constexpr(kind) for kind in range(3))
_INF = tl.constexpr(float("inf"))
_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr((0.693145751953125, 1.428606765330187e-06))
_LN2_DOUBLE = tl.constexpr((6.93147180369123816490e-01, 1.90821492927058770002e-10))
_SHIFT = tl.constexpr(16.0)
_UNIT = tl.constexpr(65536.0)
_VECTOR = tl.constexpr(8)  # columns that a causal form loads or skips together


@triton.constexpr_function
def is_fast(pointer_type):
    return pointer_type.element_ty.primitive_bitwidth == 16


@triton.constexpr_function
def compute_type(pointer_type):
    return tl.float64 if pointer_type.element_ty == tl.float64 else tl.float32


@triton.jit
def _load(pointers, inside, OTHER: tl.constexpr, COMPUTE: tl.constexpr, EVICT: tl.constexpr):
    if inside is None:
        return tl.load(pointers, eviction_policy=EVICT).to(COMPUTE)
    else:
        return tl.load(pointers, mask=inside, other=OTHER, eviction_policy=EVICT).to(COMPUTE)


@triton.jit
def _store(pointers, y, inside):
    y = y.to(pointers.dtype.element_ty)
    if inside is None:
        tl.store(pointers, y)
    else:
        tl.store(pointers, y, mask=inside)


@triton.jit
def _and(a, b):
    if a is None:
        return b
    elif b is None:
        return a
    else:
        return a & b


@triton.jit
def _mask_offset(outer, size1, size2, stride0, stride1, stride2):
    """The offset of the mask for an outer index of three digits."""
    return (outer // size2 // size1) * stride0 + (outer // size2 % size1) * stride1 + (outer % size2) * stride2


@triton.jit
def _logits(
    x_ptrs,
    mask_ptrs,
    inside,
    position,
    query,
    scale,
    MASK: tl.constexpr,
    CAUSAL: tl.constexpr,
    NEGATIVE: tl.constexpr,
    COMPUTE: tl.constexpr,
    EVICT: tl.constexpr,
):
    """The logits hi + lo of a tile, -inf outside; the scale is in them only where a mask is added."""
    wanted = inside
    if CAUSAL:
        wanted = _and(inside, position // _VECTOR <= query // _VECTOR)
    x = _load(x_ptrs, wanted, _INF if NEGATIVE else -_INF, COMPUTE, EVICT)
    hi = -x if NEGATIVE else x
    lo = hi
    if MASK == KEEP:
        hi = tl.where(_load(mask_ptrs, wanted, 0, tl.int32, "") != 0, hi, -_INF)
    elif MASK == ADD:
        bias = _load(mask_ptrs, wanted, 0.0, COMPUTE, "")
        factor = tl.full(x.shape, scale, COMPUTE)
        product = factor * x
        hi = product + bias
        back = hi - product
        error = (product - (hi - back)) + (bias - back) + tl.fma(factor, x, -product)
        # Where the error is no small number, the logits have no digits to lose; nor may it be infinite or NaN.
        EXACT: tl.constexpr = 2.0**48 if COMPUTE == tl.float64 else 2.0**20
        lo = tl.where(tl.abs(hi) < EXACT, error, 0.0)
        if wanted is not None:
            hi = tl.where(wanted, hi, -_INF)
    if CAUSAL:
        hi = tl.where(position <= query, hi, -_INF)
    return hi, lo


@triton.jit
def _exponent(hi, lo, top, top_lo, factor, MASK: tl.constexpr, SCALED: tl.constexpr, FAST: tl.constexpr):
    """factor (hi + lo - top - top_lo) and its error, exactly 0 at the maximum; FAST has no error."""
    d = hi - top
    if FAST:
        if MASK == ADD:
            d += lo - top_lo
        elif SCALED:
            d *= factor
        return d, d
    else:
        back = d - hi
        error = (hi - (d - back)) - (top + back)
        if MASK == ADD:
            error += lo - top_lo
        elif SCALED:
            factor = tl.full(d.shape, factor, d.dtype)
            product = factor * d
            error = tl.fma(factor, error, tl.fma(factor, d, -product))
            d = product
        return d, tl.where(d < -2000.0, 0.0, error)


@triton.jit
def _exp(d, d_lo, SHIFT: tl.constexpr, FAST: tl.constexpr):
    """exp(d), times 2^SHIFT if FAST."""
    if FAST:
        return tl.exp2(tl.fma(d, tl.full(d.shape, _LOG2E, d.dtype), tl.full(d.shape, SHIFT, d.dtype)))
    else:
        p, _, s, t = exp_parts(d, d_lo, False)
        return p * s * t


@triton.jit
def _log_of_sum(rest, FAST: tl.constexpr):
    """log(1 + rest) = k log(2) + log(1 + u), u = rest below 1."""
    if rest.dtype == tl.float64:
        bits = (1 + rest).to(tl.int64, bitcast=True)
        k = (bits >> 52) - 1023
        fraction = ((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).to(tl.float64, bitcast=True)
        HIGH: tl.constexpr = _LN2_DOUBLE[0]
        LOW: tl.constexpr = _LN2_DOUBLE[1]
    else:
        bits = (1 + rest).to(tl.int32, bitcast=True)
        k = (bits >> 23) - 127
        fraction = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
        HIGH: tl.constexpr = _LN2[0]
        LOW: tl.constexpr = _LN2[1]
    small = rest < 1
    k = tl.where(small, 0, k).to(rest.dtype)
    u = tl.where(small, rest, fraction - 1)
    low = tl.fma(k, tl.full(k.shape, LOW, rest.dtype), u * log1p_ratio(u, FAST))
    return tl.where(rest == rest, tl.fma(k, tl.full(k.shape, HIGH, rest.dtype), low), rest)


@triton.jit
def _maximum(hi, lo, AXIS: tl.constexpr, MASK: tl.constexpr):
    top = tl.max(hi, AXIS, keep_dims=True)
    if MASK == ADD:
        return top, tl.max(tl.where(hi == top, lo, -_INF), AXIS, keep_dims=True)
    else:
        return top, tl.zeros_like(top)


@triton.jit
def _finite(top, top_lo):
    """0 in place of a maximum of -inf, so that exponentials below it are 0."""
    return tl.where(top == -_INF, 0.0, top), tl.where(top == -_INF, 0.0, top_lo)


@triton.jit
def _sums(e, d, d_lo, AXIS: tl.constexpr, LOG: tl.constexpr, FAST: tl.constexpr):
    """The sum of the exponentials; for a logarithm of those below the maximum, and how many reach it."""
    if LOG:
        reaches = (d == 0) if FAST else (d == 0) & (d_lo == 0)
        total = tl.sum(tl.where(reaches, 0.0, e), AXIS, keep_dims=True)
        return total, tl.sum(reaches.to(e.dtype), AXIS, keep_dims=True)
    else:
        total = tl.sum(e, AXIS, keep_dims=True)
        return total, tl.zeros_like(total)


@triton.jit
def _norm(total, tops, LOG: tl.constexpr, MASKED: tl.constexpr, FAST: tl.constexpr):
    """What every result of a row needs: 1 / sum, or log(sum)."""
    if LOG:
        norm = _log_of_sum((total * (1 / _UNIT) if FAST else total) + (tops - 1), FAST)
        empty = (tops == 0) & (total == 0)
    else:
        norm = divide(tl.full(total.shape, 1.0, total.dtype), total, FAST)
        empty = total == 0
    if MASKED:
        norm = tl.where(empty, 0.0, norm)
    return norm


@triton.jit
def _result(e, d, d_lo, norm, LOG: tl.constexpr, FAST: tl.constexpr):
    if LOG:
        return d - norm if FAST else (d - norm) + d_lo
    else:
        return e * norm


@triton.jit
def _factor(scale, MASK: tl.constexpr, COMPUTE: tl.constexpr):
    """What multiplies the differences: the scale without its sign, unless it is in the logits already."""
    scale = tl.full((), scale, COMPUTE)
    return scale, tl.full((), 1.0, COMPUTE) if MASK == ADD else tl.abs(scale)


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
    FULL: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """FULL says that a row has exactly BLOCK_COLS columns."""
    FAST: tl.constexpr = is_fast(y_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(y_ptr.dtype)
    MASKED: tl.constexpr = CAUSAL or MASK != NONE
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    col = tl.arange(0, BLOCK_COLS)[None, :]
    inside = _and(None if BLOCK_ROWS == 1 else row < rows, None if FULL else col < n)
    scale, factor = _factor(scale, MASK, COMPUTE)
    mask_ptrs = mask_ptr
    if MASK != NONE:
        mask_ptrs = mask_ptr + _mask_offset(row, size1, size2, stride0, stride1, stride2) + col * mask_stride
    query = (row % queries).to(tl.int32) if CAUSAL else row
    x_ptrs = x_ptr + row * x_stride + col
    hi, lo = _logits(x_ptrs, mask_ptrs, inside, col, query, scale, MASK, CAUSAL, NEGATIVE, COMPUTE, "")
    top, top_lo = _maximum(hi, lo, 1, MASK)
    if MASKED:
        top, top_lo = _finite(top, top_lo)
    d, d_lo = _exponent(hi, lo, top, top_lo, factor, MASK, SCALED, FAST)
    e = _exp(d, d_lo, _SHIFT, FAST)
    total, tops = _sums(e, d, d_lo, 1, LOG, FAST)
    norm = _norm(total, tops, LOG, MASKED, FAST)
    _store(y_ptr + row * n + col, _result(e, d, d_lo, norm, LOG, FAST), inside)


@triton.jit
def _join(
    top, top_lo, total, tops, top2, top2_lo, total2, tops2, factor, AXIS: tl.constexpr, LOG: tl.constexpr,
    MASK: tl.constexpr, SCALED: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """The sums of one part joined with those of others along AXIS, taken to the common maximum, in a fixed order."""
    best = tl.maximum(top, tl.max(top2, AXIS, keep_dims=True))
    best_lo = tl.zeros_like(best)
    if MASK == ADD:
        best_lo = tl.max(tl.where(top2 == best, top2_lo, -_INF), AXIS, keep_dims=True)
        best_lo = tl.maximum(best_lo, tl.where(top == best, top_lo, -_INF))
    base, base_lo = _finite(best, best_lo)
    total, tops = _moved(top, top_lo, total, tops, base, base_lo, factor, LOG, MASK, SCALED, FAST)
    total2, tops2 = _moved(top2, top2_lo, total2, tops2, base, base_lo, factor, LOG, MASK, SCALED, FAST)
    total += tl.sum(total2, AXIS, keep_dims=True)
    tops += tl.sum(tops2, AXIS, keep_dims=True)
    return best, best_lo, total, tops


@triton.jit
def _moved(
    top, top_lo, total, tops, base, base_lo, factor, LOG: tl.constexpr, MASK: tl.constexpr, SCALED: tl.constexpr,
    FAST: tl.constexpr,
):  # fmt: skip
    d, d_lo = _exponent(top, top_lo, base, base_lo, factor, MASK, SCALED, FAST)
    weight = _exp(d, d_lo, 0.0, FAST)
    if LOG:
        stays = (d == 0) if FAST else (d == 0) & (d_lo == 0)
        UNIT: tl.constexpr = _UNIT if FAST else 1.0
        return tl.where(stays, total, (total + tops * UNIT) * weight), tl.where(stays, tops, 0.0)
    else:
        return total * weight, tops


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
    ONCE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_INNER: tl.constexpr,
):
    """ONCE says that BLOCK_N holds all of n."""
    FAST: tl.constexpr = is_fast(y_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(y_ptr.dtype)
    MASKED: tl.constexpr = CAUSAL or MASK != NONE
    across = tl.cdiv(inner, BLOCK_INNER)
    outer = (tl.program_id(0) // across).to(tl.int64)
    col = tl.program_id(0) % across * BLOCK_INNER + tl.arange(0, BLOCK_INNER)[None, :]
    position = tl.arange(0, BLOCK_N)[:, None]
    scale, factor = _factor(scale, MASK, COMPUTE)
    mask_at = mask_ptr
    if MASK != NONE:
        at = _mask_offset(outer, size1, size2, stride0, stride1, stride2)
        mask_at = mask_ptr + at + col.to(tl.int64) * inner_stride
    query = (outer % queries).to(tl.int32) if CAUSAL else outer
    x_at = x_ptr + outer * x_stride + col
    y_at = y_ptr + outer * n * inner + col
    if ONCE:
        inside = (position < n) & (col < inner)
        mask_ptrs = mask_at + position.to(tl.int64) * mask_stride if MASK != NONE else mask_at
        x_ptrs = x_at + position.to(tl.int64) * inner
        hi, lo = _logits(x_ptrs, mask_ptrs, inside, position, query, scale, MASK, CAUSAL, NEGATIVE, COMPUTE, "")
        top, top_lo = _maximum(hi, lo, 0, MASK)
        if MASKED:
            top, top_lo = _finite(top, top_lo)
        d, d_lo = _exponent(hi, lo, top, top_lo, factor, MASK, SCALED, FAST)
        e = _exp(d, d_lo, _SHIFT, FAST)
        total, tops = _sums(e, d, d_lo, 0, LOG, FAST)
        norm = _norm(total, tops, LOG, MASKED, FAST)
        _store(y_at + position.to(tl.int64) * inner, _result(e, d, d_lo, norm, LOG, FAST), inside)
    else:
        top = tl.full([1, BLOCK_INNER], -_INF, COMPUTE)
        top_lo = tl.zeros([1, BLOCK_INNER], COMPUTE)
        total = tl.zeros([1, BLOCK_INNER], COMPUTE)
        tops = tl.zeros([1, BLOCK_INNER], COMPUTE)
        for start in range(0, n, BLOCK_N):
            here = start + position
            inside = (here < n) & (col < inner)
            mask_ptrs = mask_at + here.to(tl.int64) * mask_stride if MASK != NONE else mask_at
            x_ptrs = x_at + here.to(tl.int64) * inner
            hi, lo = _logits(x_ptrs, mask_ptrs, inside, here, query, scale, MASK, CAUSAL, NEGATIVE, COMPUTE, "")
            top2, top2_lo = _maximum(hi, lo, 0, MASK)
            base, base_lo = _finite(top2, top2_lo)
            d, d_lo = _exponent(hi, lo, base, base_lo, factor, MASK, SCALED, FAST)
            total2, tops2 = _sums(_exp(d, d_lo, _SHIFT, FAST), d, d_lo, 0, LOG, FAST)
            top, top_lo, total, tops = _join(
                top, top_lo, total, tops, top2, top2_lo, total2, tops2, factor, 0, LOG, MASK, SCALED, FAST
            )
        if MASKED:
            top, top_lo = _finite(top, top_lo)
        norm = _norm(total, tops, LOG, MASKED, FAST)
        for start in range(0, n, BLOCK_N):
            here = start + position
            inside = (here < n) & (col < inner)
            mask_ptrs = mask_at + here.to(tl.int64) * mask_stride if MASK != NONE else mask_at
            x_ptrs = x_at + here.to(tl.int64) * inner
            hi, lo = _logits(x_ptrs, mask_ptrs, inside, here, query, scale, MASK, CAUSAL, NEGATIVE, COMPUTE, "")
            d, d_lo = _exponent(hi, lo, top, top_lo, factor, MASK, SCALED, FAST)
            y = _result(_exp(d, d_lo, _SHIFT, FAST), d, d_lo, norm, LOG, FAST)
            _store(y_at + here.to(tl.int64) * inner, y, inside)


@triton.jit
def _slope_sum(grad, y, LOG: tl.constexpr):
    """What a gradient's row is summed of."""
    return grad if LOG else grad * y


@triton.jit
def _gradient(grad, y, total, scale, LOG: tl.constexpr, MASKED: tl.constexpr):
    if LOG:
        found = grad - tl.exp(y) * total
        if MASKED:
            found = tl.where(y == -_INF, 0.0, found)
    else:
        found = y * (grad - total)
    return found * scale


@triton.jit
def backward_rows(
    grad_ptr,
    y_ptr,
    grad_x_ptr,
    rows,
    n,
    scale: tl.float64,
    LOG: tl.constexpr,
    MASKED: tl.constexpr,
    FULL: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """FULL says that a row has exactly BLOCK_COLS columns."""
    COMPUTE: tl.constexpr = compute_type(y_ptr.dtype)
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    col = tl.arange(0, BLOCK_COLS)[None, :]
    inside = _and(None if BLOCK_ROWS == 1 else row < rows, None if FULL else col < n)
    at = row * n + col
    grad = _load(grad_ptr + at, inside, 0.0, COMPUTE, "")
    y = _load(y_ptr + at, inside, 0.0, COMPUTE, "")
    if LOG and MASKED:
        grad = tl.where(y == -_INF, 0.0, grad)
    total = tl.sum(_slope_sum(grad, y, LOG), 1, keep_dims=True)
    _store(grad_x_ptr + at, _gradient(grad, y, total, tl.full((), scale, COMPUTE), LOG, MASKED), inside)


@triton.jit
def backward_columns(
    grad_ptr,
    y_ptr,
    grad_x_ptr,
    n,
    inner,
    scale: tl.float64,
    LOG: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_INNER: tl.constexpr,
):
    COMPUTE: tl.constexpr = compute_type(y_ptr.dtype)
    across = tl.cdiv(inner, BLOCK_INNER)
    outer = (tl.program_id(0) // across).to(tl.int64)
    col = tl.program_id(0) % across * BLOCK_INNER + tl.arange(0, BLOCK_INNER)[None, :]
    position = tl.arange(0, BLOCK_N)[:, None]
    start_at = outer * n * inner + col
    sums = tl.zeros([BLOCK_N, BLOCK_INNER], COMPUTE)
    for start in range(0, n, BLOCK_N):
        here = start + position
        inside = (here < n) & (col < inner)
        at = start_at + here.to(tl.int64) * inner
        grad = _load(grad_ptr + at, inside, 0.0, COMPUTE, "evict_last")
        y = _load(y_ptr + at, inside, 0.0, COMPUTE, "evict_last")
        if LOG and MASKED:
            grad = tl.where(y == -_INF, 0.0, grad)
        sums += _slope_sum(grad, y, LOG)
    total = tl.sum(sums, 0, keep_dims=True)
    for start in range(0, n, BLOCK_N):
        here = start + position
        inside = (here < n) & (col < inner)
        at = start_at + here.to(tl.int64) * inner
        grad = _load(grad_ptr + at, inside, 0.0, COMPUTE, "evict_first")
        y = _load(y_ptr + at, inside, 0.0, COMPUTE, "evict_first")
        if LOG and MASKED:
            grad = tl.where(y == -_INF, 0.0, grad)
        _store(grad_x_ptr + at, _gradient(grad, y, total, tl.full((), scale, COMPUTE), LOG, MASKED), inside)
