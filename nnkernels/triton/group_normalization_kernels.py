"""Normalisation of groups that lie in one piece, a program for each: what it reads a second time is still in cache."""

import triton
import triton.language as tl

from .batch_normalization_kernels import load_or_zero
from .math import rounded_quotient
from .tiles import store, times


@triton.jit
def _tile(d, i, group, inner, BLOCK_GROUP: tl.constexpr, BLOCK_INNER: tl.constexpr):
    """Where a group's tile lies that begins at channel `d` and its element `i`, its mask, and whether it is full."""
    channel = d + tl.arange(0, BLOCK_GROUP)[:, None]
    element = i + tl.arange(0, BLOCK_INNER)[None, :]
    full = (d + BLOCK_GROUP <= group) & (i + BLOCK_INNER <= inner)
    return channel * inner + element, (channel < group) & (element < inner), full


@triton.jit
def _affine(weight_ptr, bias_ptr, first, d, group, low, rstd, COMPUTE: tl.constexpr, BLOCK_GROUP: tl.constexpr):
    """Of channels `d` of a group: the weight, and the scale and shift of z = (x - center) scale + shift."""
    channel = d + tl.arange(0, BLOCK_GROUP)[:, None]
    weight = tl.full([BLOCK_GROUP, 1], 1.0, COMPUTE)
    if weight_ptr is not None:
        weight = tl.load(weight_ptr + first + channel, mask=channel < group, other=0.0).to(COMPUTE)
    scale = rstd * weight
    shift = -low * scale
    if bias_ptr is not None:
        shift += tl.load(bias_ptr + first + channel, mask=channel < group, other=0.0).to(COMPUTE)
    return weight, scale, shift


@triton.jit(do_not_specialize=["sets"])
def forward(
    x_ptr, residual_ptr, weight_ptr, bias_ptr, statistics_ptr, y_ptr, a: tl.float64, b: tl.float64, eps: tl.float64,
    sets, groups, group, inner, VALUE: tl.constexpr, EVEN: tl.constexpr, BLOCK_GROUP: tl.constexpr,
    BLOCK_INNER: tl.constexpr,
):  # fmt: skip
    FAST: tl.constexpr = x_ptr.dtype.element_ty.primitive_bitwidth == 16
    COMPUTE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty.primitive_bitwidth == 64 else tl.float32
    number = tl.program_id(0)
    first = number % groups * group
    base = number.to(tl.int64) * group * inner
    at, mask, full = _tile(0, 0, group, inner, BLOCK_GROUP, BLOCK_INNER)
    x = load_or_zero(x_ptr + base + at, mask, full, COMPUTE, EVEN)
    center = rounded_quotient(tl.sum(tl.sum(x, 1), 0), tl.minimum(BLOCK_GROUP, group) * tl.minimum(BLOCK_INNER, inner))
    total = tl.zeros([BLOCK_GROUP, BLOCK_INNER], COMPUTE)
    squares = tl.zeros([BLOCK_GROUP, BLOCK_INNER], COMPUTE)
    for d in range(0, group, BLOCK_GROUP):
        for i in range(0, inner, BLOCK_INNER):
            at, mask, full = _tile(d, i, group, inner, BLOCK_GROUP, BLOCK_INNER)
            off = tl.where(mask, load_or_zero(x_ptr + base + at, mask, full, COMPUTE, EVEN) - center, 0.0)
            total += off
            squares += off * off
    count = tl.full((), 1, COMPUTE) * group * inner
    low = tl.sum(tl.sum(total, 1), 0) / count
    variance = tl.sum(tl.sum(squares, 1), 0) / count - low * low
    rstd = 1 / tl.sqrt(tl.where(variance < 0, 0.0, variance) + tl.full((), eps, COMPUTE))
    mean = center + low
    low = (center - mean) + low
    center = mean
    out = statistics_ptr + number
    tl.store(out, count)
    tl.store(out + sets, center)
    tl.store(out + 2 * sets, low)
    tl.store(out + 3 * sets, rstd)
    a, b = tl.full((), a, COMPUTE), tl.full((), b, COMPUTE)
    for d in range(0, group, BLOCK_GROUP):
        _weight, scale, shift = _affine(weight_ptr, bias_ptr, first, d, group, low, rstd, COMPUTE, BLOCK_GROUP)
        for i in range(0, inner, BLOCK_INNER):
            at, mask, full = _tile(d, i, group, inner, BLOCK_GROUP, BLOCK_INNER)
            z = (load_or_zero(x_ptr + base + at, mask, full, COMPUTE, EVEN) - center) * scale + shift
            if residual_ptr is not None:
                z += load_or_zero(residual_ptr + base + at, mask, full, COMPUTE, EVEN)
            store(y_ptr + base + at, VALUE(z, a, b, FAST), mask, full, EVEN)


@triton.jit(do_not_specialize=["sets", "lanes"])
def backward(
    grad_ptr, x_ptr, residual_ptr, weight_ptr, bias_ptr, statistics_ptr, sums_ptr, grad_x_ptr, grad_residual_ptr,
    a: tl.float64, b: tl.float64, sets, lanes, groups, group, inner, D1: tl.constexpr, MASKS: tl.constexpr,
    EVEN: tl.constexpr, BLOCK_GROUP: tl.constexpr, BLOCK_INNER: tl.constexpr,
):  # fmt: skip
    """The gradients, and for each channel the sums of dz and of dz times the normalised value, [2, lanes]."""
    FAST: tl.constexpr = x_ptr.dtype.element_ty.primitive_bitwidth == 16
    COMPUTE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty.primitive_bitwidth == 64 else tl.float32
    number = tl.program_id(0)
    first = number % groups * group
    base = number.to(tl.int64) * group * inner
    center = tl.load(statistics_ptr + sets + number)
    low = tl.load(statistics_ptr + 2 * sets + number)
    rstd = tl.load(statistics_ptr + 3 * sets + number)
    a, b = tl.full((), a, COMPUTE), tl.full((), b, COMPUTE)
    for_mean = tl.zeros([BLOCK_GROUP], COMPUTE)
    for_spread = tl.zeros([BLOCK_GROUP], COMPUTE)
    for d in range(0, group, BLOCK_GROUP):
        weight, scale, shift = _affine(weight_ptr, bias_ptr, first, d, group, low, rstd, COMPUTE, BLOCK_GROUP)
        total = tl.zeros([BLOCK_GROUP, BLOCK_INNER], COMPUTE)
        along = tl.zeros([BLOCK_GROUP, BLOCK_INNER], COMPUTE)
        for i in range(0, inner, BLOCK_INNER):
            at, mask, full = _tile(d, i, group, inner, BLOCK_GROUP, BLOCK_INNER)
            dz = load_or_zero(grad_ptr + base + at, mask, full, COMPUTE, EVEN)
            away = load_or_zero(x_ptr + base + at, mask, full, COMPUTE, EVEN) - center
            z = away * scale + shift
            if residual_ptr is not None:
                z += load_or_zero(residual_ptr + base + at, mask, full, COMPUTE, EVEN)
            dz = tl.where(mask, times(dz, D1(z, a, b, FAST), MASKS), 0.0)
            total += dz
            along += tl.where(mask, dz * away, 0.0)
        channel = d + tl.arange(0, BLOCK_GROUP)
        total = tl.sum(total, 1)
        along = rstd * (tl.sum(along, 1) - low * total)
        lane = number * group + channel
        tl.store(sums_ptr + lane, total, mask=channel < group)
        tl.store(sums_ptr + lanes + lane, along, mask=channel < group)
        weight = tl.reshape(weight, [BLOCK_GROUP])
        for_mean += tl.where(channel < group, weight * total, 0.0)
        for_spread += tl.where(channel < group, weight * along, 0.0)
    factor = rstd / (tl.full((), 1, COMPUTE) * group * inner)
    slope = -factor * rstd * tl.sum(for_spread, 0)
    offset = -factor * tl.sum(for_mean, 0) - slope * low
    for d in range(0, group, BLOCK_GROUP):
        _weight, scale, shift = _affine(weight_ptr, bias_ptr, first, d, group, low, rstd, COMPUTE, BLOCK_GROUP)
        for i in range(0, inner, BLOCK_INNER):
            at, mask, full = _tile(d, i, group, inner, BLOCK_GROUP, BLOCK_INNER)
            dz = load_or_zero(grad_ptr + base + at, mask, full, COMPUTE, EVEN)
            away = load_or_zero(x_ptr + base + at, mask, full, COMPUTE, EVEN) - center
            z = away * scale + shift
            if residual_ptr is not None:
                z += load_or_zero(residual_ptr + base + at, mask, full, COMPUTE, EVEN)
            dz = times(dz, D1(z, a, b, FAST), MASKS)
            store(grad_x_ptr + base + at, dz * scale + (away * slope + offset), mask, full, EVEN)
            if grad_residual_ptr is not None:
                store(grad_residual_ptr + base + at, dz, mask, full, EVEN)
