"""What softmax does to one tile: read logits, find maximum and sum, form the results, join the sums of parts.

A logit is held as hi + lo only if a mask was added to it. Exponentials of what 16 bits will keep are held 2^16 times as
large, since exp2 flushes subnormal numbers, which bfloat16 has.
"""

import triton
import triton.language as tl

from .math import LN2_DOUBLE, LN2_FLOAT, divide, exp_parts, log1p_ratio
from .tiles import load_inside
from .waiting import publish, wait

NONE, KEEP, ADD = (tl.constexpr(kind) for kind in range(3))
_INF = tl.constexpr(float("inf"))
_LOG2E = tl.constexpr(1.4426950408889634)
SHIFT = tl.constexpr(16.0)
UNIT = tl.constexpr(65536.0)
KEPT = tl.constexpr(4)  # numbers of each chunk, which lie together, so that each thread loads those of one
_VECTOR = tl.constexpr(8)  # columns that a causal form loads or skips together


@triton.jit
def within(row, rows, col, n, ONE_ROW: tl.constexpr, FULL: tl.constexpr):
    """Which elements of a tile exist; None if all do. (Triton 3.6 returns None from variables only, in no tuple.)"""
    if ONE_ROW:
        inside = None if FULL else col < n
    elif FULL:
        inside = row < rows
    else:
        inside = (row < rows) & (col < n)
    return inside


@triton.jit
def wanted(inside, position, query, CAUSAL: tl.constexpr):
    """What has to be loaded: what exists, less the vectors that a causal form masks whole."""
    if not CAUSAL:
        there = inside
    elif inside is None:
        there = position // _VECTOR <= query // _VECTOR
    else:
        there = inside & (position // _VECTOR <= query // _VECTOR)
    return there


@triton.jit
def aligned(size, ALIGN: tl.constexpr):
    """`size`, a multiple of ALIGN, in a form that tells the compiler so."""
    return size // ALIGN * ALIGN


@triton.jit
def next_chunk(ticket, splits, n, BLOCK: tl.constexpr):
    """The first chunk that no program has taken, its row and columns; a row has `splits`."""
    chunk = tl.atomic_add(ticket, 1, sem="relaxed")
    first = (chunk % splits).to(n.dtype) * BLOCK
    return chunk, (chunk // splits).to(tl.int64), first + tl.arange(0, BLOCK)[None, :]


@triton.jit
def mask_offset(outer, size1, size2, stride0, stride1, stride2):
    """The offset of the mask for an outer index of three digits."""
    return (outer // size2 // size1) * stride0 + (outer // size2 % size1) * stride1 + (outer % size2) * stride2


@triton.jit
def load_logits(pointers, inside, NEGATIVE: tl.constexpr):
    """The input of a tile as it is stored, and the least logit's where there is none."""
    return load_inside(pointers, inside, _INF if NEGATIVE else -_INF)


@triton.jit
def logits(
    x, mask_ptrs, inside, position, query, scale, MASK: tl.constexpr, CAUSAL: tl.constexpr, NEGATIVE: tl.constexpr,
    COMPUTE: tl.constexpr,
):  # fmt: skip
    """The logits hi + lo of a loaded tile, -inf outside; the scale is in them only where a mask is added."""
    x = x.to(COMPUTE)
    hi = -x if NEGATIVE else x
    lo = hi
    if MASK == KEEP:
        hi = tl.where(load_inside(mask_ptrs, inside, 0) != 0, hi, -_INF)
    elif MASK == ADD:
        bias = load_inside(mask_ptrs, inside, 0.0).to(COMPUTE)
        factor = tl.full(x.shape, scale, COMPUTE)
        product = factor * x
        hi = product + bias
        back = hi - product
        error = (product - (hi - back)) + (bias - back) + tl.fma(factor, x, -product)
        # Where the error is no small number, the logits have no digits to lose; nor may it be infinite or NaN.
        EXACT: tl.constexpr = 2.0**48 if COMPUTE == tl.float64 else 2.0**20
        lo = tl.where(tl.abs(hi) < EXACT, error, 0.0)
        if inside is not None:
            hi = tl.where(inside, hi, -_INF)
    if CAUSAL:
        hi = tl.where(position <= query, hi, -_INF)
    return hi, lo


@triton.jit
def exponent(hi, lo, top, top_lo, factor, MASK: tl.constexpr, SCALED: tl.constexpr, FAST: tl.constexpr):
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
def exponential(d, d_lo, POWER: tl.constexpr, FAST: tl.constexpr):
    """exp(d), times 2^POWER if FAST."""
    if FAST:
        return tl.exp2(tl.fma(d, tl.full(d.shape, _LOG2E, d.dtype), tl.full(d.shape, POWER, d.dtype)))
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
        HIGH: tl.constexpr = LN2_DOUBLE[0]
        LOW: tl.constexpr = LN2_DOUBLE[1]
    else:
        bits = (1 + rest).to(tl.int32, bitcast=True)
        k = (bits >> 23) - 127
        fraction = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
        HIGH: tl.constexpr = LN2_FLOAT[0]
        LOW: tl.constexpr = LN2_FLOAT[1]
    small = rest < 1
    k = tl.where(small, 0, k).to(rest.dtype)
    u = tl.where(small, rest, fraction - 1)
    low = tl.fma(k, tl.full(k.shape, LOW, rest.dtype), u * log1p_ratio(u, FAST))
    return tl.where(rest == rest, tl.fma(k, tl.full(k.shape, HIGH, rest.dtype), low), rest)


@triton.jit
def maximum(hi, lo, AXIS: tl.constexpr, MASK: tl.constexpr):
    top = tl.max(hi, AXIS, keep_dims=True)
    if MASK == ADD:
        return top, tl.max(tl.where(hi == top, lo, -_INF), AXIS, keep_dims=True)
    else:
        return top, tl.zeros_like(top)


@triton.jit
def finite(top, top_lo):
    """0 in place of a maximum of -inf, so that exponentials below it are 0."""
    return tl.where(top == -_INF, 0.0, top), tl.where(top == -_INF, 0.0, top_lo)


@triton.jit
def sums(e, d, d_lo, AXIS: tl.constexpr, LOG: tl.constexpr, FAST: tl.constexpr):
    """The sum of the exponentials; for a logarithm of those below the maximum, and how many reach it."""
    if LOG:
        reaches = (d == 0) if FAST else (d == 0) & (d_lo == 0)
        total = tl.sum(tl.where(reaches, 0.0, e), AXIS, keep_dims=True)
        return total, tl.sum(reaches.to(e.dtype), AXIS, keep_dims=True)
    else:
        total = tl.sum(e, AXIS, keep_dims=True)
        return total, tl.zeros_like(total)


@triton.jit
def norm_of(total, tops, LOG: tl.constexpr, MASKED: tl.constexpr, FAST: tl.constexpr):
    """What every result of a row needs: 1 / sum, or log(sum)."""
    if LOG:
        norm = _log_of_sum((total * (1 / UNIT) if FAST else total) + (tops - 1), FAST)
        empty = (tops == 0) & (total == 0)
    else:
        norm = divide(tl.full(total.shape, 1.0, total.dtype), total, FAST)
        empty = total == 0
    if MASKED:
        norm = tl.where(empty, 0.0, norm)
    return norm


@triton.jit
def result(e, d, d_lo, norm, LOG: tl.constexpr, FAST: tl.constexpr):
    if LOG:
        return d - norm if FAST else (d - norm) + d_lo
    else:
        return e * norm


@triton.jit
def keep(tops_ptrs, norms_ptrs, top, top_lo, norm, inside):
    """The statistics of rows; the maximum's rounding error goes to the logarithm, from which no digit is lost by it."""
    tl.store(tops_ptrs, top, mask=inside)
    tl.store(norms_ptrs, norm + top_lo, mask=inside)


@triton.jit
def factor_of(scale, MASK: tl.constexpr, COMPUTE: tl.constexpr):
    """What multiplies the differences: the scale without its sign, unless it is in the logits already."""
    scale = tl.full((), scale, COMPUTE)
    return scale, tl.full((), 1.0, COMPUTE) if MASK == ADD else tl.abs(scale)


@triton.jit
def join(
    top, top_lo, total, tops, top2, top2_lo, total2, tops2, factor, AXIS: tl.constexpr, LOG: tl.constexpr,
    MASK: tl.constexpr, SCALED: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """The sums of one part joined with those of others along AXIS, taken to the common maximum, in a fixed order."""
    best = tl.maximum(top, tl.max(top2, AXIS, keep_dims=True))
    best_lo = tl.zeros_like(best)
    if MASK == ADD:
        best_lo = tl.max(tl.where(top2 == best, top2_lo, -_INF), AXIS, keep_dims=True)
        best_lo = tl.maximum(best_lo, tl.where(top == best, top_lo, -_INF))
    base, base_lo = finite(best, best_lo)
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
    d, d_lo = exponent(top, top_lo, base, base_lo, factor, MASK, SCALED, FAST)
    weight = exponential(d, d_lo, 0.0, FAST)
    if LOG:
        stays = (d == 0) if FAST else (d == 0) & (d_lo == 0)
        ONE: tl.constexpr = UNIT if FAST else 1.0
        return tl.where(stays, total, (total + tops * ONE) * weight), tl.where(stays, tops, 0.0)
    else:
        return total * weight, tops


@triton.jit
def exchanged(
    partial_ptr, counts_ptr, chunk, row, splits, own, own_lo, own_total, own_tops, factor, LOG: tl.constexpr,
    MASK: tl.constexpr, SCALED: tl.constexpr, FAST: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """The maximum and the sums of a row whose `splits` chunks a program each holds, once all have told of their own."""
    COMPUTE: tl.constexpr = own.dtype
    parts = partial_ptr + KEPT * chunk + tl.zeros([1, 1], tl.int32)
    tl.store(parts, own)
    tl.store(parts + 1, own_total)
    if LOG:
        tl.store(parts + 2, own_tops)
    if MASK == ADD:
        tl.store(parts + 3, own_lo)
    publish(counts_ptr + 1 + row)
    wait(counts_ptr + 1 + row, splits)
    part = tl.arange(0, PARTS)
    # Past the L1 cache, which may hold these lines as they were before other programs wrote them.
    parts = partial_ptr + KEPT * (row * splits + part)
    exists = part < splits
    all_top = tl.load(parts, mask=exists, other=-_INF, cache_modifier=".cg")
    all_total = tl.load(parts + 1, mask=exists, other=0.0, cache_modifier=".cg")
    all_tops, all_lo = tl.zeros([PARTS], COMPUTE), tl.zeros([PARTS], COMPUTE)
    if LOG:
        all_tops = tl.load(parts + 2, mask=exists, other=0.0, cache_modifier=".cg")
    if MASK == ADD:
        all_lo = tl.load(parts + 3, mask=exists, other=0.0, cache_modifier=".cg")
    none, zero = tl.full([1], -_INF, COMPUTE), tl.zeros([1], COMPUTE)
    top, top_lo, total, tops = join(
        none, zero, zero, zero, all_top, all_lo, all_total, all_tops, factor, 0, LOG, MASK, SCALED, FAST
    )
    # As scalars, which have no layout: the chunk's would give each thread eight parts.
    return tl.sum(top, 0), tl.sum(top_lo, 0), tl.sum(total, 0), tl.sum(tops, 0)


@triton.jit
def chunk_result(
    e, hi, lo, own, own_lo, top, top_lo, norm, factor, LOG: tl.constexpr, MASK: tl.constexpr, SCALED: tl.constexpr,
    FAST: tl.constexpr,
):  # fmt: skip
    """The results of a chunk, whose exponentials `e` are those below its own maximum, from its row's maximum."""
    if not LOG:
        moved, moved_lo = exponent(own, own_lo, top, top_lo, factor, MASK, SCALED, FAST)
        return e * exponential(moved, moved_lo, SHIFT, FAST) * ((norm * (1 / UNIT)) if FAST else norm)
    else:
        d, d_lo = exponent(hi, lo, top, top_lo, factor, MASK, SCALED, FAST)
        return result(exponential(d, d_lo, SHIFT, FAST), d, d_lo, norm, LOG, FAST)


@triton.jit
def exchanged_total(partial_ptr, counts_ptr, chunk, row, splits, own, PARTS: tl.constexpr):
    """The sum of a row's `splits` chunks, of which a program each holds one and has summed its `own`."""
    tl.store(partial_ptr + KEPT * chunk + tl.zeros([1, 1], tl.int32), own)
    publish(counts_ptr + 1 + row)
    wait(counts_ptr + 1 + row, splits)
    part = tl.arange(0, PARTS)
    parts = partial_ptr + KEPT * (row * splits + part)
    return tl.sum(tl.load(parts, mask=part < splits, other=0.0, cache_modifier=".cg"), 0)
