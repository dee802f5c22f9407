"""Activations made of exponentials: sigmoid, tanh and softplus families. The gates x sigmoid(z(x)) are in `gates.py`.

Each is a function of a block `x` of float32 or float64 and the two constants of its row. Where a result decays like
exp(-|z|) = p s t it is formed as (v p) s t, which keeps its digits down to the subnormal numbers (`math.exp_parts`).
"""

import triton
import triton.language as tl

from .math import (
    TANHRES,
    exp_parts,
    expm1,
    log1p_ratio,
    logistic,
    near_over,
    over_sum,
    polynomial,
    tanh,
)


@triton.jit
def sigmoid_value(x, a, b, FAST: tl.constexpr):
    p, s, t, r, _ = logistic(x, None, FAST)
    return tl.where(x >= 0, r, p * r * s * t)


@triton.jit
def sigmoid_d1(x, a, b, FAST: tl.constexpr):
    p, s, t, r, _ = logistic(x, None, FAST)
    return p * (r * r) * s * t


@triton.jit
def sigmoid_d2(x, a, b, FAST: tl.constexpr):
    p, s, t, r, _ = logistic(x, None, FAST)
    bend = (1 - p * s * t) * r
    return p * (r * r * tl.where(x > 0, -bend, bend)) * s * t


@triton.jit
def tanh_value(x, a, b, FAST: tl.constexpr):
    return tanh(x, FAST)


@triton.jit
def tanh_d1(x, a, b, FAST: tl.constexpr):
    p, s, t, r, _ = logistic(2 * x, None, FAST)
    return p * (4 * r * r) * s * t


@triton.jit
def tanh_d2(x, a, b, FAST: tl.constexpr):
    p, s, t, r, _ = logistic(2 * x, None, FAST)
    return p * (-8 * r * r * tanh(x, FAST)) * s * t


@triton.jit
def tanhshrink_value(x, a, b, FAST: tl.constexpr):
    """x - tanh(x) cancels near zero: there it is x^3 P(x^2), with x^2 P formed first, as x^3 alone may be subnormal."""
    square = x * x
    return tl.where(tl.abs(x) < 1.5, square * polynomial(square - 1.125, TANHRES, FAST) * x, x - tanh(x, FAST))


@triton.jit
def tanhshrink_d1(x, a, b, FAST: tl.constexpr):
    m = expm1(-2 * tl.abs(x), FAST)
    y, lo = over_sum(tl.abs(m), 2.0, m, FAST)
    return tl.fma(y, y, 2 * y * lo)


@triton.jit
def tanhshrink_d2(x, a, b, FAST: tl.constexpr):
    p, s, t, r, _ = logistic(2 * x, None, FAST)
    return p * (8 * r * r * tanh(x, FAST)) * s * t


@triton.jit
def logsigmoid_value(x, a, b, FAST: tl.constexpr):
    """min(x, 0) - log(1 + e), e = exp(-|x|)."""
    p, _, s, t = exp_parts(-tl.abs(x), None, FAST)
    return tl.where(x > 0, -1.0 * tl.zeros_like(x), x) - log1p_ratio(p * s * t, FAST) * p * s * t


@triton.jit
def logsigmoid_d1(x, a, b, FAST: tl.constexpr):
    return sigmoid_value(-x, a, b, FAST)


@triton.jit
def logsigmoid_d2(x, a, b, FAST: tl.constexpr):
    return -sigmoid_d1(x, a, b, FAST)


@triton.jit
def scaled_argument(x, a):
    """x held where exp(-|a x|) is 0, and a x = z + lo."""
    x = near_over(x, a)
    z = a * x
    return x, z, tl.fma(a, x, -z)


@triton.jit
def softplus_value(x, a, b, FAST: tl.constexpr):
    """max(x, 0) + log(1 + e)/a, e = exp(-|z|), z = a x; for a < 0 the sign of z decides, not that of x."""
    _, z, lo = scaled_argument(x, a)
    p, _, s, t = exp_parts(-tl.abs(z), tl.where(z < 0, lo, -lo), FAST)
    tail = log1p_ratio(p * s * t, FAST) * (1 / a) * p * s * t
    return tl.where(a * x > b, x, tl.where(z < 0, 0.0, x) + tail)


@triton.jit
def softplus_d1(x, a, b, FAST: tl.constexpr):
    _, z, lo = scaled_argument(x, a)
    p, s, t, r, _ = logistic(z, lo, FAST)
    return tl.where((a * x > b) | (z >= 0), tl.where(a * x > b, 1.0, r), p * r * s * t)


@triton.jit
def softplus_d2(x, a, b, FAST: tl.constexpr):
    _, z, lo = scaled_argument(x, a)
    p, s, t, r, _ = logistic(z, lo, FAST)
    return tl.where(a * x > b, 0.0, a * (r * r) * p * s * t)
