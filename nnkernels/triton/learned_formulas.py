"""The activations with learned parameters: what `learned_kernels.py` evaluates.

A formula is three functions: VALUE(x, a, b), GRADIENT(grad, x, a, b) and SHARES(grad, x, a, b), where `a` and `b` are
tuples of SEGMENTS parameters; SHARES gives a tuple of sums to be, in the order of the parameters. The shares of `b`
still lack the factor `a`.
"""

import triton
import triton.language as tl

from . import gates, smooth
from .math import logistic


@triton.jit
def prelu_value(x, a, b, FAST: tl.constexpr):
    return tl.where(x > 0, x, a[0] * x)


@triton.jit
def prelu_gradient(grad, x, a, b, FAST: tl.constexpr):
    return tl.where(x > 0, grad, a[0] * grad)


@triton.jit
def prelu_shares(grad, x, a, b, FAST: tl.constexpr):
    return (tl.where(x > 0, 0.0, grad * x),)


@triton.jit
def swish_value(x, a, b, FAST: tl.constexpr):
    return gates.swish_value(x, a[0], 0.0, FAST)


@triton.jit
def swish_gradient(grad, x, a, b, FAST: tl.constexpr):
    return grad * gates.swish_d1(x, a[0], 0.0, FAST)


@triton.jit
def swish_shares(grad, x, a, b, FAST: tl.constexpr):
    """x^2 sigmoid'(z), z = a x: one x before the exponential's small factor and one after it."""
    held, z, lo = smooth.scaled_argument(x, a[0])
    p, s, t, r, _ = logistic(z, lo, FAST)
    if FAST:
        return (grad * (held * ((p * (r * r) * s * t) * held)),)
    else:
        large = tl.abs(held) > 1
        first = p * (held * r * r) * s
        return (grad * tl.where(large, first * held * t, first * t * held),)


@triton.jit
def _positive(x):
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def apl_value(x, a, b, FAST: tl.constexpr):
    y = _positive(x)
    for s in tl.static_range(len(a)):
        y += a[s] * _positive(b[s] - x)
    return y


@triton.jit
def apl_gradient(grad, x, a, b, FAST: tl.constexpr):
    grad_x = tl.where(x <= 0, 0.0, grad)
    for s in tl.static_range(len(a)):
        grad_x -= a[s] * tl.where(b[s] - x <= 0, 0.0, grad)
    return grad_x


@triton.jit
def apl_shares(grad, x, a, b, FAST: tl.constexpr):
    shares = ()
    for s in tl.static_range(len(a)):
        distance = b[s] - x
        shares = shares + (tl.where(distance <= 0, 0.0, grad * distance),)
    for s in tl.static_range(len(a)):
        shares = shares + (tl.where(b[s] - x <= 0, 0.0, grad),)
    return shares
