"""What layer and rms norm compute for each number, whatever lies together, and how their statistics are kept."""

import triton
import triton.language as tl

from ..contracts.normalization import Gate
from .tiles import load_inside, times

AFTER, BEFORE = tl.constexpr(int(Gate.AFTER)), tl.constexpr(int(Gate.BEFORE))


@triton.jit
def inverse_deviation(square, eps):
    # A tiny square may have been rounded below 0; NaN stays.
    square = tl.where(square < 0, 0.0, square) + eps
    return tl.div_rn(1.0, tl.sqrt_rn(square)) if square.dtype == tl.float32 else 1.0 / tl.sqrt(square)


@triton.jit
def gated(x, gate, a, b, VALUE: tl.constexpr, FAST: tl.constexpr):
    """x f(gate), and f(gate)."""
    factor = VALUE(gate.to(x.dtype), tl.full((), a, x.dtype), tl.full((), b, x.dtype), FAST)
    return x * factor, factor


@triton.jit
def load_weight(weight_ptr, inside, offset, COMPUTE: tl.constexpr):
    return load_inside(weight_ptr, inside).to(COMPUTE) + tl.full((), offset, COMPUTE)


@triton.jit
def argument_of(normalised, weight, bias, residual):
    """The activation's argument."""
    z = normalised
    if weight is not None:
        z *= weight
    if bias is not None:
        z += bias.to(z.dtype)
    if residual is not None:
        z += residual.to(z.dtype)
    return z


@triton.jit
def result(
    normalised, weight, bias, residual, a, b, VALUE: tl.constexpr, GATES: tl.constexpr, FAST: tl.constexpr
):  # fmt: skip
    a, b = tl.full((), a, normalised.dtype), tl.full((), b, normalised.dtype)
    if GATES == AFTER:
        return argument_of(normalised, weight, bias, None) * VALUE(residual.to(normalised.dtype), a, b, FAST)
    elif GATES == BEFORE:
        return argument_of(normalised, weight, bias, None)
    else:
        return VALUE(argument_of(normalised, weight, bias, residual), a, b, FAST)


@triton.jit
def keep(statistics_ptr, mean, mean_low, deviation, row, rows, inside, CENTRED: tl.constexpr):
    """The statistics of `row`, if it is `inside`, of as many as `rows`."""
    if statistics_ptr is not None:
        KEPT: tl.constexpr = statistics_ptr.dtype.element_ty
        if CENTRED:
            tl.store(statistics_ptr + row, mean.to(KEPT) + mean_low.to(KEPT), mask=inside)
            statistics_ptr += rows
        tl.store(statistics_ptr + row, deviation.to(KEPT), mask=inside)


@triton.jit
def add_both(a, b, c, d):
    return a + c, b + d


@triton.jit
def kept(statistics_ptr, row, rows, inside, CENTRED: tl.constexpr):
    """What forward kept: the mean, anything unless CENTRED, and 1 / deviation."""
    mean = load_inside(statistics_ptr + row, inside)
    deviation = mean
    if CENTRED:
        deviation = load_inside(statistics_ptr + rows + row, inside)
    return mean, deviation


@triton.jit
def normalise_by(x, mean, deviation, CENTRED: tl.constexpr, COMPUTE: tl.constexpr):
    """x normalised by what forward kept, and 1 / deviation."""
    if CENTRED:
        high = mean.to(COMPUTE)
        x -= high
        if mean.dtype != COMPUTE:
            x -= (mean - high.to(mean.dtype)).to(COMPUTE)
    deviation = deviation.to(COMPUTE)
    return x * deviation, deviation


@triton.jit
def normalise(x, statistics_ptr, row, rows, inside, CENTRED: tl.constexpr, COMPUTE: tl.constexpr):
    """x normalised by the statistics that forward kept, and 1 / deviation."""
    mean, deviation = kept(statistics_ptr, row, rows, inside, CENTRED)
    return normalise_by(x, mean, deviation, CENTRED, COMPUTE)


@triton.jit
def slope_of(
    grad,
    normalised,
    weight,
    bias,
    residual,
    a,
    b,
    GATES: tl.constexpr,
    VALUE: tl.constexpr,
    D1: tl.constexpr,
    MASKS: tl.constexpr,
    FAST: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """The gradients of what the weight gives and of the residual; D1 is None where f is nothing."""
    if D1 is None or GATES == BEFORE:
        return grad, grad
    else:
        a, b = tl.full((), a, COMPUTE), tl.full((), b, COMPUTE)
        if GATES != AFTER:
            slope = D1(argument_of(normalised, weight, bias, residual), a, b, FAST)
            grad = times(grad, slope, MASKS)
            return grad, grad
        else:
            gate = residual.to(COMPUTE)
            affine = argument_of(normalised, weight, bias, None)
            return grad * VALUE(gate, a, b, FAST), times(grad * affine, D1(gate, a, b, FAST), MASKS)
