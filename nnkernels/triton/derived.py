"""Smooth activations that are another one, scaled or under a root; as those in `smooth`."""

import triton
import triton.language as tl

from .math import divide, exp_parts, log1p_ratio, logistic, near, tanh


@triton.jit
def _quotient(x, a):
    """x / a as z + lo, x held where tanh(z) is 1; and whether that is 1 or z, whose digits a tiny quotient lacks."""
    LINEAR: tl.constexpr = 1e-9 if x.dtype == tl.float64 else 1e-4
    inverse = 1 / a
    z = near(x, 2000 * a) * inverse
    return z, tl.fma(-z, a, near(x, 2000 * a)) * inverse, tl.abs(z) < LINEAR


@triton.jit
def softcap_value(x, a, b, FAST: tl.constexpr):
    z, lo, is_linear = _quotient(x, a)
    return tl.where(is_linear, x, a * tanh(z + lo, FAST))


@triton.jit
def softcap_d1(x, a, b, FAST: tl.constexpr):
    z, lo, _ = _quotient(x, a)
    p, s, t, r, _ = logistic(2 * z, 2 * lo, FAST)
    return p * (4 * r * r) * s * t


@triton.jit
def softcap_d2(x, a, b, FAST: tl.constexpr):
    z, lo, _ = _quotient(x, a)
    p, s, t, r, _ = logistic(2 * z, 2 * lo, FAST)
    return p * (-8 * r * r * (tanh(z, FAST) / a)) * s * t


@triton.jit
def _root_parts(x, FAST: tl.constexpr):
    """e^(-|x|/2) = p s t, its square e, and l and its root: log(1 + e)/e below zero, log(1 + e^x) above."""
    p, _, s, t = exp_parts(-0.5 * tl.abs(x), None, FAST)
    root = p * s * t
    e = root * root
    ratio = log1p_ratio(e, FAST)
    square = tl.where(x < 0, ratio, tl.fma(e, ratio, x))
    if FAST or x.dtype == tl.float64:
        return p, s, t, e, square, tl.sqrt(square)
    else:
        return p, s, t, e, square, tl.sqrt_rn(square)


@triton.jit
def sqrtsoftplus_value(x, a, b, FAST: tl.constexpr):
    """Below zero e^(x/2) sqrt(log(1 + e)/e): the logarithm itself is 0 long before its root is."""
    p, s, t, _, _, root = _root_parts(x, FAST)
    return tl.where(x < 0, root * p * s * t, root)


@triton.jit
def sqrtsoftplus_d1(x, a, b, FAST: tl.constexpr):
    p, s, t, e, _, root = _root_parts(x, FAST)
    slope = divide(tl.full(x.shape, 0.5, x.dtype), root * (1 + e), FAST)
    return tl.where(x < 0, slope * p * s * t, slope)


@triton.jit
def sqrtsoftplus_d2(x, a, b, FAST: tl.constexpr):
    p, s, t, e, square, root = _root_parts(x, FAST)
    bracket = tl.fma(2 * near(square, 2000.0), tl.where(x < 0, 1.0, e), tl.full(x.shape, -1.0, x.dtype))
    bend = divide(divide(bracket, 4 * root * ((1 + e) * (1 + e)), FAST), square, FAST)
    return tl.where(x < 0, bend * p * s * t, bend)
