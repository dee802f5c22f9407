"""Activations made of straight lines, parabolas and exponential branches. `d1` and `d2` at the knees are PyTorch's.

Each is a function of a block `x` of float32 or float64 and the two constants of its row; comparisons are written so
that NaN falls through to the branch that returns x.
"""

import triton
import triton.language as tl

from ..catalogue.elementwise import SELU_ALPHA, SELU_SCALE
from .math import copysign, divide, exp_parts, expm1, near

_SELU_SCALE = tl.constexpr(SELU_SCALE)
_SELU_SLOPE = tl.constexpr(SELU_SCALE * SELU_ALPHA)


@triton.jit
def _zero(x, a, b, FAST: tl.constexpr):
    return tl.zeros_like(x)


@triton.jit
def _inside(x, low, high):
    """1 strictly between low and high, and for NaN; else 0."""
    return tl.where((x <= low) | (x >= high), 0.0, tl.full(x.shape, 1.0, x.dtype))


@triton.jit
def _clamp(x, low, high):
    return tl.where(x < low, low, tl.where(x > high, high, x))


@triton.jit
def identity_value(x, a, b, FAST: tl.constexpr):
    return x


@triton.jit
def identity_d1(x, a, b, FAST: tl.constexpr):
    return tl.full(x.shape, 1.0, x.dtype)


identity_d2 = _zero


@triton.jit
def relu_value(x, a, b, FAST: tl.constexpr):
    return tl.where(x < 0, 0.0, x)


@triton.jit
def relu_d1(x, a, b, FAST: tl.constexpr):
    return tl.where(x <= 0, 0.0, tl.full(x.shape, 1.0, x.dtype))


relu_d2 = _zero


@triton.jit
def relu6_value(x, a, b, FAST: tl.constexpr):
    return _clamp(x, 0.0, 6.0)


@triton.jit
def relu6_d1(x, a, b, FAST: tl.constexpr):
    return _inside(x, 0.0, 6.0)


relu6_d2 = _zero


@triton.jit
def relu_squared_value(x, a, b, FAST: tl.constexpr):
    y = tl.where(x <= 0, 0.0, x)
    return y * y


@triton.jit
def relu_squared_d1(x, a, b, FAST: tl.constexpr):
    return tl.where(x <= 0, 0.0, 2 * x)


@triton.jit
def relu_squared_d2(x, a, b, FAST: tl.constexpr):
    return tl.where(x > 0, 2.0, tl.zeros_like(x))


@triton.jit
def leaky_relu_value(x, a, b, FAST: tl.constexpr):
    return tl.where(x > 0, x, a * x)


@triton.jit
def leaky_relu_d1(x, a, b, FAST: tl.constexpr):
    return tl.where(x > 0, 1.0, tl.zeros_like(x) + a)


leaky_relu_d2 = _zero


@triton.jit
def hardtanh_value(x, a, b, FAST: tl.constexpr):
    return _clamp(x, a, b)


@triton.jit
def hardtanh_d1(x, a, b, FAST: tl.constexpr):
    return _inside(x, a, b)


hardtanh_d2 = _zero


@triton.jit
def hardsigmoid_value(x, a, b, FAST: tl.constexpr):
    return _clamp(x + 3, 0.0, 6.0) * (1 / 6)


@triton.jit
def hardsigmoid_d1(x, a, b, FAST: tl.constexpr):
    return tl.where((x > -3) & (x < 3), 1 / 6, tl.zeros_like(x))


hardsigmoid_d2 = _zero


@triton.jit
def hardswish_value(x, a, b, FAST: tl.constexpr):
    middle = _clamp(x, -3.0, 3.0)
    return tl.where(x >= 3, x, middle * ((middle + 3) * (1 / 6)))


@triton.jit
def hardswish_d1(x, a, b, FAST: tl.constexpr):
    return tl.where(x <= -3, 0.0, tl.where(x < 3, (_clamp(x, -3.0, 3.0) + 1.5) * (1 / 3), 1.0))


@triton.jit
def hardswish_d2(x, a, b, FAST: tl.constexpr):
    return tl.where((x > -3) & (x < 3), 1 / 3, tl.zeros_like(x))


@triton.jit
def threshold_value(x, a, b, FAST: tl.constexpr):
    return tl.where(x <= a, b, x)


@triton.jit
def threshold_d1(x, a, b, FAST: tl.constexpr):
    return tl.where(x <= a, 0.0, tl.full(x.shape, 1.0, x.dtype))


threshold_d2 = _zero


@triton.jit
def thresholded_relu_value(x, a, b, FAST: tl.constexpr):
    return tl.where(x <= a, 0.0, x)


thresholded_relu_d1 = threshold_d1
thresholded_relu_d2 = _zero


@triton.jit
def softshrink_value(x, a, b, FAST: tl.constexpr):
    return tl.where(x > a, x - a, tl.where(x < -a, x + a, tl.where(x == x, copysign(tl.zeros_like(x), x), x)))


@triton.jit
def softshrink_d1(x, a, b, FAST: tl.constexpr):
    return tl.where((x >= -a) & (x <= a), 0.0, tl.full(x.shape, 1.0, x.dtype))


softshrink_d2 = _zero


@triton.jit
def hardshrink_value(x, a, b, FAST: tl.constexpr):
    return tl.where((x >= -a) & (x <= a), 0.0, x)


hardshrink_d1 = softshrink_d1
hardshrink_d2 = _zero


@triton.jit
def _exp_branch(x, slope, FAST: tl.constexpr):
    """slope exp(x) where x <= 0."""
    p, _, s, t = exp_parts(tl.where(x > 0, 0.0, x), None, FAST)
    return slope * p * s * t


@triton.jit
def elu_value(x, a, b, FAST: tl.constexpr):
    """x < 0 keeps the sign of -0."""
    return tl.where(x < 0, a * expm1(x, FAST), x)


@triton.jit
def elu_d1(x, a, b, FAST: tl.constexpr):
    return tl.where(x > 0, 1.0, _exp_branch(x, a, FAST))


@triton.jit
def elu_d2(x, a, b, FAST: tl.constexpr):
    return tl.where(x > 0, 0.0, _exp_branch(x, a, FAST))


@triton.jit
def selu_value(x, a, b, FAST: tl.constexpr):
    return tl.where(x < 0, _SELU_SLOPE * expm1(x, FAST), x * _SELU_SCALE)


@triton.jit
def selu_d1(x, a, b, FAST: tl.constexpr):
    return tl.where(x > 0, _SELU_SCALE, _exp_branch(x, _SELU_SLOPE, FAST))


@triton.jit
def selu_d2(x, a, b, FAST: tl.constexpr):
    return tl.where(x > 0, 0.0, _exp_branch(x, _SELU_SLOPE, FAST))


@triton.jit
def _celu_argument(x, a):
    """x/a = z + lo where x <= 0, and 1/a; z is held where exp(z) is 0 (or, for a < 0, infinite)."""
    LARGEST: tl.constexpr = 1.7976931348623157e308 if x.dtype == tl.float64 else 3.4028234663852886e38
    inverse = 1 / a
    inverse_lo = inverse * tl.fma(-a, inverse, tl.full((), 1.0, x.dtype))
    finite = tl.abs(inverse) <= LARGEST
    inverse_lo = tl.where(finite, inverse_lo, 0.0)
    inverse = tl.where(finite, inverse, tl.where(a < 0, -LARGEST, LARGEST))
    HIGHEST: tl.constexpr = 1418.0 if x.dtype == tl.float64 else 176.0
    bound = tl.minimum(tl.abs(a) * tl.where(a > 0, 2000.0, HIGHEST), LARGEST)
    x = near(tl.where(x > 0, 0.0, x), bound)
    z = x * inverse
    return z, tl.fma(x, inverse, -z) + x * inverse_lo, inverse


@triton.jit
def celu_value(x, a, b, FAST: tl.constexpr):
    """x itself where |x/a| is so small that it may be subnormal. For a < 0, x/a grows as x falls, up to infinity."""
    z, lo, _inverse = _celu_argument(x, a)
    y = a * expm1(tl.where(z > 1, 1.0, z), FAST)
    if a < 0:
        p, _rest, s, t = exp_parts(z, lo, FAST)
        y = tl.where(z > 1, a * p * s * t - a, y)
    HALF_ULP: tl.constexpr = 2.0**-53 if x.dtype == tl.float64 else 2.0**-24
    return tl.where(x < -tl.abs(a) * HALF_ULP, y, x)


@triton.jit
def celu_d1(x, a, b, FAST: tl.constexpr):
    z, lo, _ = _celu_argument(x, a)
    p, _, s, t = exp_parts(z, lo, FAST)
    return tl.where(x > 0, 1.0, p * s * t)


@triton.jit
def celu_d2(x, a, b, FAST: tl.constexpr):
    z, lo, inverse = _celu_argument(x, a)
    p, _, s, t = exp_parts(z, lo, FAST)
    return tl.where(x > 0, 0.0, inverse * p * s * t)


@triton.jit
def softsign_value(x, a, b, FAST: tl.constexpr):
    LARGEST: tl.constexpr = 1.7976931348623157e308 if x.dtype == tl.float64 else 3.4028234663852886e38
    x = near(x, tl.full((), LARGEST, x.dtype))
    return divide(x, 1 + tl.abs(x), FAST)


@triton.jit
def softsign_d1(x, a, b, FAST: tl.constexpr):
    r = divide(tl.full(x.shape, 1.0, x.dtype), 1 + tl.abs(x), FAST)
    return r * r


@triton.jit
def softsign_d2(x, a, b, FAST: tl.constexpr):
    r = divide(tl.full(x.shape, 1.0, x.dtype), 1 + tl.abs(x), FAST)
    return tl.where(x < 0, 2.0, tl.where(x > 0, -2.0, x)) * r * r * r


@triton.jit
def hardmish_value(x, a, b, FAST: tl.constexpr):
    return tl.where(x <= -2, 0.0, tl.where(x < 0, x * ((x + 2) * 0.5), x))


@triton.jit
def hardmish_d1(x, a, b, FAST: tl.constexpr):
    return tl.where(x <= -2, 0.0, tl.where(x < 0, x + 1, 1.0))


@triton.jit
def hardmish_d2(x, a, b, FAST: tl.constexpr):
    return tl.where((x > -2) & (x < 0), 1.0, tl.zeros_like(x))


@triton.jit
def starrelu_value(x, a, b, FAST: tl.constexpr):
    """Around its root the sum is no larger than what rounding took from the product, which therefore joins it."""
    r = tl.where(x <= 0, 0.0, x)
    scaled = a * r
    total = tl.fma(scaled, r, b + tl.zeros_like(x))
    if FAST:
        return total
    else:
        lost = tl.fma(a + tl.zeros_like(x), r, -scaled)
        return tl.where(tl.abs(total) < tl.abs(b), tl.fma(lost, r, total), total)


@triton.jit
def starrelu_d1(x, a, b, FAST: tl.constexpr):
    return tl.where(x <= 0, 0.0, 2 * a * x)


@triton.jit
def starrelu_d2(x, a, b, FAST: tl.constexpr):
    return tl.where(x > 0, 2 * a, tl.zeros_like(x))
