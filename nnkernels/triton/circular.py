"""The sine and cosine of a product, exact for arguments of any size."""

import triton
import triton.language as tl

from . import polynomials as fitted
from .math import polynomial

_SINE = tl.constexpr((fitted.SINE_FAST, fitted.SINE_FLOAT, fitted.SINE_DOUBLE))

# pi in three parts of the type's digits, half of it in two, and up to where its multiples are subtracted exactly.
_PI_FLOAT = tl.constexpr((3.1415927410125732, -8.742277657347586e-08, -3.4302490200117637e-15))
_PI_DOUBLE = tl.constexpr((3.141592653589793, 1.2246467991473532e-16, -2.9947698097183397e-33))
_HALF_FLOAT = tl.constexpr((1.5707963705062866, -4.371138828673793e-08))
_HALF_DOUBLE = tl.constexpr((1.5707963267948966, 6.123233995736766e-17))
_LIMIT_FLOAT = tl.constexpr(1e6)
_LIMIT_DOUBLE = tl.constexpr(1e9)
_MAGIC_FLOAT = tl.constexpr(1.5 * 2**23)
_MAGIC_DOUBLE = tl.constexpr(1.5 * 2**52)


@triton.jit
def _sine(angle, FAST: tl.constexpr):
    square = angle * angle
    return tl.fma(angle * square, polynomial(square, _SINE, FAST), angle)


@triton.jit
def turned(alpha, x, FAST: tl.constexpr):
    """sin(z) and cos(z), z = alpha x, but for a sign that may be turned in both.

    The nearest multiple of pi leaves an angle of at most pi/2, and the rounding error of the product joins it. A block
    in which some z has more turns than that is right for, which is rare, calls the library's functions instead.
    """
    DOUBLE: tl.constexpr = x.dtype == tl.float64
    PI: tl.constexpr = _PI_DOUBLE if DOUBLE else _PI_FLOAT
    HALF: tl.constexpr = _HALF_DOUBLE if DOUBLE else _HALF_FLOAT
    MAGIC: tl.constexpr = _MAGIC_DOUBLE if DOUBLE else _MAGIC_FLOAT
    LIMIT: tl.constexpr = _LIMIT_DOUBLE if DOUBLE else _LIMIT_FLOAT
    alpha += tl.zeros_like(x)
    z = alpha * x
    lost = tl.fma(alpha, x, -z)
    if tl.max(tl.abs(z)) > LIMIT:
        s, c, more, less = tl.sin(z), tl.cos(z), tl.sin(lost), tl.cos(lost)  # which may be more than a turn
        sine, cosine = s * less + c * more, c * less - s * more
    else:
        turns = tl.fma(z, tl.full(z.shape, 0.3183098861837907, z.dtype), tl.full(z.shape, MAGIC, z.dtype)) - MAGIC
        angle = tl.fma(turns, tl.full(z.shape, -PI[0], z.dtype), z)
        angle = tl.fma(turns, tl.full(z.shape, -PI[1], z.dtype), angle)
        angle = tl.fma(turns, tl.full(z.shape, -PI[2], z.dtype), angle) + lost
        sine, cosine = _sine(angle, FAST), _sine((HALF[0] - tl.abs(angle)) + HALF[1], FAST)
    return sine, cosine
