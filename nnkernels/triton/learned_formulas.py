"""The activations with learned parameters: what `learned_kernels.py` evaluates.

A formula is four functions: VALUE(x, p, c), GRADIENT(grad, x, p, c), SHARES(grad, x, p, c) and FACTORS(p, c), where `p`
is the tuple of the parameters, one tensor's segments after the other's, and `c` that of two constants. SHARES gives a
tuple of sums to be, in the order of the parameters; FACTORS what they lack, being the same for all of a channel.
"""

import triton
import triton.language as tl

from . import gates, piecewise, smooth
from .circular import turned
from .math import exp_less_two_terms, exp_parts, log1p_ratio, logistic, tanh

_SNAKE_GUARD = tl.constexpr(1e-9)


@triton.jit
def nothing_lacks(p, c):
    factors = ()
    for k in tl.static_range(len(p)):
        factors = factors + (1.0,)
    return factors


@triton.jit
def prelu_value(x, p, c, FAST: tl.constexpr):
    return tl.where(x > 0, x, p[0] * x)


@triton.jit
def prelu_gradient(grad, x, p, c, FAST: tl.constexpr):
    return tl.where(x > 0, grad, p[0] * grad)


@triton.jit
def prelu_shares(grad, x, p, c, FAST: tl.constexpr):
    return (tl.where(x > 0, 0.0, grad * x),)


@triton.jit
def swish_value(x, p, c, FAST: tl.constexpr):
    return gates.swish_value(x, p[0], 0.0, FAST)


@triton.jit
def swish_gradient(grad, x, p, c, FAST: tl.constexpr):
    return grad * gates.swish_d1(x, p[0], 0.0, FAST)


@triton.jit
def swish_shares(grad, x, p, c, FAST: tl.constexpr):
    """x^2 sigmoid'(z), z = beta x: one x before the exponential's small factor and one after it."""
    held, z, lo = smooth.scaled_argument(x, p[0])
    e, s, t, r, _ = logistic(z, lo, FAST)
    if FAST:
        return (grad * (held * ((e * (r * r) * s * t) * held)),)
    else:
        large = tl.abs(held) > 1
        first = e * (held * r * r) * s
        return (grad * tl.where(large, first * held * t, first * t * held),)


@triton.jit
def _positive(x):
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def apl_value(x, p, c, FAST: tl.constexpr):
    S: tl.constexpr = len(p) // 2
    y = _positive(x)
    for s in tl.static_range(S):
        y += p[s] * _positive(p[S + s] - x)
    return y


@triton.jit
def apl_gradient(grad, x, p, c, FAST: tl.constexpr):
    S: tl.constexpr = len(p) // 2
    grad_x = tl.where(x <= 0, 0.0, grad)
    for s in tl.static_range(S):
        grad_x -= p[s] * tl.where(p[S + s] - x <= 0, 0.0, grad)
    return grad_x


@triton.jit
def apl_shares(grad, x, p, c, FAST: tl.constexpr):
    S: tl.constexpr = len(p) // 2
    shares = ()
    for s in tl.static_range(S):
        distance = p[S + s] - x
        shares = shares + (tl.where(distance <= 0, 0.0, grad * distance),)
    for s in tl.static_range(S):
        shares = shares + (tl.where(p[S + s] - x <= 0, 0.0, grad),)
    return shares


@triton.jit
def apl_factors(p, c):
    S: tl.constexpr = len(p) // 2
    factors = ()
    for s in tl.static_range(S):
        factors = factors + (1.0,)
    for s in tl.static_range(S):
        factors = factors + (p[s],)
    return factors


@triton.jit
def _softplus(v, FAST: tl.constexpr):
    """log(1 + exp(v)), as torch has it: v beyond 20."""
    e, _, s, t = exp_parts(-tl.abs(v), None, FAST)
    return tl.where(v > 20, v, tl.where(v < 0, 0.0, v) + log1p_ratio(e * s * t, FAST) * e * s * t)


@triton.jit
def _xielu_below(x, c):
    """x, held at most 0, and the smaller of it and eps."""
    below = tl.where(x > 0, 0.0, x)
    return below, tl.minimum(below, c[1], propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def xielu_value(x, p, c, FAST: tl.constexpr):
    """Far below 0 alpha_n (e^x - 1 - x) + beta x is alpha_n (e^x - 1) - softplus(n) x, in which nothing cancels."""
    beta, eps = c
    tail = _softplus(p[1], FAST)
    alpha_n = beta + tail
    below, m = _xielu_below(x, c)
    _, expm1, gap = exp_less_two_terms(m, FAST)
    gap += tl.where(below > eps, eps - below, 0.0)
    near, far = alpha_n * gap + beta * below, alpha_n * expm1 - tail * below
    return tl.where(x > 0, x * (_softplus(p[0], FAST) * x + beta), tl.where(below > -1, near, far))


@triton.jit
def xielu_gradient(grad, x, p, c, FAST: tl.constexpr):
    beta, eps = c
    tail = _softplus(p[1], FAST)
    alpha_n = beta + tail
    below, m = _xielu_below(x, c)
    e, expm1, _ = exp_less_two_terms(m, FAST)
    e = tl.where(below > eps, 0.0, tl.where(below == eps, 0.5 * e, e))  # of a minimum, as torch has it
    near, far = alpha_n * expm1 + beta, alpha_n * e - tail
    slope = tl.where((below > -1) & (below < eps), near, far)
    return grad * tl.where(x > 0, 2 * _softplus(p[0], FAST) * x + beta, slope)


@triton.jit
def xielu_shares(grad, x, p, c, FAST: tl.constexpr):
    below, m = _xielu_below(x, c)
    _, _, gap = exp_less_two_terms(m, FAST)
    gap += tl.where(below > c[1], c[1] - below, 0.0)
    return tl.where(x > 0, grad * x * x, 0.0), tl.where(x > 0, 0.0, grad * gap)


@triton.jit
def xielu_factors(p, c):
    return (
        tl.where(p[0] > 20, 1.0, smooth.sigmoid_value(p[0], 0.0, 0.0, False)),
        tl.where(p[1] > 20, 1.0, smooth.sigmoid_value(p[1], 0.0, 0.0, False)),
    )


@triton.jit
def snake_value(x, p, c, FAST: tl.constexpr):
    return snake_beta_value(x, (p[0], p[0]), c, FAST)


@triton.jit
def snake_gradient(grad, x, p, c, FAST: tl.constexpr):
    return snake_beta_gradient(grad, x, (p[0], p[0]), c, FAST)


@triton.jit
def snake_shares(grad, x, p, c, FAST: tl.constexpr):
    sine, cosine = turned(p[0], x, FAST)
    return (grad * sine * (2 * x * cosine - sine * (1 / (p[0] + _SNAKE_GUARD))),)


@triton.jit
def snake_factors(p, c):
    return (1 / (p[0] + _SNAKE_GUARD),)


@triton.jit
def snake_beta_value(x, p, c, FAST: tl.constexpr):
    sine, _ = turned(p[0], x, FAST)
    return x + sine * sine * (1 / (p[1] + _SNAKE_GUARD))


@triton.jit
def snake_beta_gradient(grad, x, p, c, FAST: tl.constexpr):
    sine, cosine = turned(p[0], x, FAST)
    return grad * (1 + (sine * cosine) * (2 * p[0] / (p[1] + _SNAKE_GUARD)))


@triton.jit
def snake_beta_shares(grad, x, p, c, FAST: tl.constexpr):
    sine, cosine = turned(p[0], x, FAST)
    return grad * (2 * x * (sine * cosine)), grad * (sine * sine)


@triton.jit
def snake_beta_factors(p, c):
    inverse = 1 / (p[1] + _SNAKE_GUARD)
    return inverse, -inverse * inverse


@triton.jit
def starrelu_value(x, p, c, FAST: tl.constexpr):
    return piecewise.starrelu_value(x, p[0], p[1], FAST)


@triton.jit
def starrelu_gradient(grad, x, p, c, FAST: tl.constexpr):
    return tl.where(x <= 0, 0.0, grad * (2 * p[0] * x))


@triton.jit
def starrelu_shares(grad, x, p, c, FAST: tl.constexpr):
    return tl.where(x <= 0, 0.0, grad * x * x), grad


@triton.jit
def dyt_value(x, p, c, FAST: tl.constexpr):
    _, z, _ = smooth.scaled_argument(x, p[0])
    return p[1] * tanh(z, FAST) + p[2]


@triton.jit
def _tanh_slope(x, alpha, v, FAST: tl.constexpr):
    """v tanh'(alpha x)"""
    _, z, lo = smooth.scaled_argument(x, alpha)
    e, s, t, r, _ = logistic(2 * z, 2 * lo, FAST)
    return e * (4 * r * r * v) * s * t


@triton.jit
def dyt_gradient(grad, x, p, c, FAST: tl.constexpr):
    return _tanh_slope(x, p[0], grad * p[1] * p[0], FAST)


@triton.jit
def dyt_shares(grad, x, p, c, FAST: tl.constexpr):
    held, z, _ = smooth.scaled_argument(x, p[0])
    return _tanh_slope(x, p[0], grad * held, FAST), grad * tanh(z, FAST), grad


@triton.jit
def dyt_factors(p, c):
    return p[1], 1.0, 1.0
