"""The gates x sigmoid(z(x)), gelu and mish: functions as `smooth.py` has them, whose derivatives have a root."""

import triton
import triton.language as tl

from .math import (
    GELU_D1,
    GELU_ROOT,
    GELU_SLOPE,
    GELU_TAIL,
    GELU_TANH_ROOT,
    GELU_TANH_ROOT_Z,
    MISH_ROOT,
    SILU_ROOT,
    difference,
    exp_parts,
    growth,
    logistic,
    near,
    normal_tail,
    over_sum,
    polynomial,
    quotient,
    root_weight,
    table,
)
from .smooth import scaled_argument

_FAR = tl.constexpr(2000.0)  # exp(-_FAR) is 0 in every type
_LOG2E = tl.constexpr(1.4426950408889634)
_FARTHEST = tl.constexpr(14.0)  # where gelu and its slope are 0 in 16 bits
_LIFT = tl.constexpr(24.0)  # what the fits of gelu add to an exponent
_INV_SQRT_2PI = tl.constexpr(0.3989422804014327)
# high and low parts for float and for double: 1.702, c1 = 2 sqrt(2/pi) and c2 = 0.044715 c1
_QUICK = tl.constexpr((1.7020000219345093, -2.1934509319976314e-08, 1.702, 4.263256414560601e-17))
_C1 = tl.constexpr((1.5957691669464111, -4.534068054340423e-08, 1.5957691216057308, -9.96930880911092e-17))
_C2 = tl.constexpr((0.07135481387376785, 2.3988324659995897e-09, 0.07135481627260025, -6.175149918155315e-19))


@triton.jit
def _two_parts(x, PARTS: tl.constexpr):
    if x.dtype == tl.float64:
        return tl.full((), PARTS[2], x.dtype), tl.full((), PARTS[3], x.dtype)
    else:
        return tl.full((), PARTS[0], x.dtype), tl.full((), PARTS[1], x.dtype)


@triton.jit
def _gate_value(x, held, z, lo, FAST: tl.constexpr):
    """x sigmoid(z); `held` is x, held where sigmoid(z) is 0.

    FAST multiplies by the root of sigmoid twice, so that small numbers keep their digits: rsqrt(1 + e), times the root
    of e below zero, where e = exp(-|z|).
    """
    if FAST:
        e_root = tl.exp2(tl.abs(z) * (-0.5 * _LOG2E))
        root = tl.where(z < 0, e_root, 1.0) * tl.rsqrt(tl.fma(e_root, e_root, tl.full(z.shape, 1.0, z.dtype)))
        return tl.where(z < 0, held, x) * root * root
    else:
        p, s, t, r, _ = logistic(z, lo, FAST)
        return tl.where(z >= 0, x * r, held * r * p * s * t)


@triton.jit
def _gate_d1_fast(z, w):
    """e (1 + w + e)/(1 + e)^2, e = exp(z), w = x z', for a z of at most 40: beyond, it is 1.

    The root of e multiplies twice, so that small numbers keep their digits.
    """
    e_root = tl.exp2(z * (0.5 * _LOG2E))
    e = e_root * e_root
    inverse = tl.rsqrt(1 + e)
    square = inverse * inverse
    return (1 + w + e) * (square * square) * e_root * e_root


@triton.jit
def _gate_d1(bracket, tail, scale, e, below):
    """e B/(1 + e)^2, B weighted (`math.growth`), for z <= 0; above, it is 1 minus itself at -z."""
    ratio = quotient(bracket, tl.fma(e, 2 + e, tl.full(e.shape, 1.0, e.dtype)))
    slope = tl.fma(ratio, tail, ratio) * scale
    return tl.where(below, slope, 1 - slope)


@triton.jit
def _linear_d1(z, lo, below):
    """The derivative of x sigmoid(x) at z + lo = -|...|, held where it is 0.

    B = 1 + z + e, of which both terms have the root r if written (z - r) + (e - e_r): no digits are lost around it.
    """
    ROOT: tl.constexpr = table(SILU_ROOT, z.dtype, False)
    WEIGHT: tl.constexpr = root_weight(ROOT, z.dtype)
    d, small = difference(z, ROOT[0])
    small += lo - ROOT[1]
    tail, scale, e, weighted = growth(d, small, ROOT)
    weight = tl.full(z.shape, WEIGHT, z.dtype)
    return _gate_d1(tl.fma(d, weight, tl.fma(small - ROOT[3], weight, weighted)), tail, scale, e, below)


@triton.jit
def _at_least(x, low):
    return tl.maximum(x, low, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _at_most(x, high):
    return tl.minimum(x, high, propagate_nan=tl.PropagateNan.ALL)


@triton.constexpr_function
def _closing(dtype):
    """Where x exp(x) is 0."""
    return -753.5 if dtype == tl.float64 else -109.0


@triton.jit
def _gate_d2(z, lo, twice_dz, w_dz, x_ddz, FAST: tl.constexpr):
    """sigmoid' (2 z' + x z'' + x z'^2 sigmoid''/sigmoid'), w_dz = x z'^2, sigmoid''/sigmoid' = 1 - 2 sigmoid."""
    p, s, t, r, _ = logistic(z, lo, FAST)
    bend = (1 - p * s * t) * r
    return r * r * (twice_dz + x_ddz + w_dz * tl.where(z > 0, -bend, bend)) * p * s * t


@triton.jit
def _held_linear_d1(z, lo):
    held = _at_least(-tl.abs(z), _closing(z.dtype))
    lo = tl.where(tl.abs(z) > -_closing(z.dtype), 0.0, tl.where(z < 0, lo, -lo))
    return _linear_d1(held, lo, z < 0)


@triton.jit
def silu_value(x, a, b, FAST: tl.constexpr):
    held = near(x, _FAR)
    return _gate_value(x, held, held, None, FAST)


@triton.jit
def silu_d1(x, a, b, FAST: tl.constexpr):
    if FAST:
        x = _at_most(_at_least(x, -_FAR), 40.0)
        return _gate_d1_fast(x, x)
    else:
        return _linear_d1(_at_least(-tl.abs(x), _closing(x.dtype)), 0.0, x < 0)


@triton.jit
def silu_d2(x, a, b, FAST: tl.constexpr):
    x = near(x, _FAR)
    return _gate_d2(x, None, 2.0, x, 0.0, FAST)


@triton.jit
def swish_value(x, a, b, FAST: tl.constexpr):
    held, z, lo = scaled_argument(x, a)
    return _gate_value(x, held, z, lo, FAST)


@triton.jit
def swish_d1(x, a, b, FAST: tl.constexpr):
    _, z, lo = scaled_argument(x, a)
    if FAST:
        z = _at_most(z, 40.0)
        return _gate_d1_fast(z, z)
    else:
        return _held_linear_d1(z, lo)


@triton.jit
def swish_d2(x, a, b, FAST: tl.constexpr):
    _, z, lo = scaled_argument(x, a)
    return _gate_d2(z, lo, 2 * a, a * z, 0.0, FAST)


@triton.jit
def _quick_argument(x):
    high, low = _two_parts(x, _QUICK)
    x = near(x, _FAR)
    z = high * x
    return x, z, tl.fma(high, x, -z) + low * x


@triton.jit
def gelu_sigmoid_value(x, a, b, FAST: tl.constexpr):
    held, z, lo = _quick_argument(x)
    return _gate_value(x, held, z, lo, FAST)


@triton.jit
def gelu_sigmoid_d1(x, a, b, FAST: tl.constexpr):
    _, z, lo = _quick_argument(x)
    if FAST:
        z = _at_most(z, 40.0)
        return _gate_d1_fast(z, z)
    else:
        return _held_linear_d1(z, lo)


@triton.jit
def gelu_sigmoid_d2(x, a, b, FAST: tl.constexpr):
    _, z, lo = _quick_argument(x)
    return _gate_d2(z, lo, 2 * 1.702, z * 1.702, 0.0, FAST)


@triton.jit
def _cubic_argument(x):
    """x held, z + lo = x (c1 + c2 x^2), and c2 x^2.

    The bracket is a TwoSum (Knuth) whose product is never rounded: `excess` is what it took from c1, and the rounding
    errors of x^2 and of the constants join.
    """
    c1, c1_low = _two_parts(x, _C1)
    c2, c2_low = _two_parts(x, _C2)
    x = near(x, 40.0)
    square = x * x
    c1 = tl.zeros_like(x) + c1
    bracket = tl.fma(square, c2, c1)
    excess = bracket - c1
    lost = tl.fma(square, c2, -excess) + (c1 - (bracket - excess))
    lost += c1_low + tl.fma(square, c2_low, c2 * tl.fma(x, x, -square))
    z = x * bracket
    return x, z, tl.fma(x, bracket, -z) + x * lost, c2 * square


@triton.jit
def gelu_tanh_value(x, a, b, FAST: tl.constexpr):
    held, z, lo, _ = _cubic_argument(x)
    return _gate_value(x, held, z, lo, FAST)


@triton.jit
def gelu_tanh_d1(x, a, b, FAST: tl.constexpr):
    """Counted from the root r of B = 1 + w + e, w = x z' is d (c1 + 3 c2 q), d = x - r and q = x^2 + x r + r^2."""
    if FAST:
        x, z, _, cubic = _cubic_argument(_at_most(x, 7.2))
        return _gate_d1_fast(z, z + 2 * x * cubic)
    else:
        ROOT: tl.constexpr = table(GELU_TANH_ROOT, x.dtype, False)
        ROOT_Z: tl.constexpr = table(GELU_TANH_ROOT_Z, x.dtype, False)
        WEIGHT: tl.constexpr = root_weight(ROOT_Z, x.dtype)
        C1: tl.constexpr = _C1[2]
        C2: tl.constexpr = 3 * _C2[2]
        below = x < 0
        x, z, lo, _ = _cubic_argument(_at_least(-tl.abs(x), -21.61 if x.dtype == tl.float64 else -10.92))
        # The bound, which z keeps, stands between the product that z is and a subtraction into which the compiler would
        # contract it, so that z were unrounded there and rounded elsewhere.
        d_z, small_z = difference(_at_most(z, 0.0), ROOT_Z[0])
        tail, scale, e, weighted = growth(d_z, small_z + (lo - ROOT_Z[1]), ROOT_Z)
        slope = tl.fma(x, tl.full(x.shape, C2 * WEIGHT, x.dtype), tl.full(x.shape, C2 * ROOT[0] * WEIGHT, x.dtype))
        slope = tl.fma(x, slope, tl.full(x.shape, (C2 * ROOT[0] * ROOT[0] + C1) * WEIGHT, x.dtype))
        d, small = difference(x, ROOT[0])
        bracket = tl.fma(d, slope, tl.fma(small - ROOT[1], slope, weighted - WEIGHT * ROOT_Z[3]))
        return _gate_d1(bracket, tail, scale, e, below)


@triton.jit
def gelu_tanh_d2(x, a, b, FAST: tl.constexpr):
    """z' = c1 + 3 c2 x^2, x z'' = 6 c2 x^2."""
    x, z, lo, cubic = _cubic_argument(x)
    c1, _ = _two_parts(x, _C1)
    dz = c1 + 3 * cubic
    return _gate_d2(z, lo, 2 * dz, x * dz * dz, 6 * cubic, FAST)


@triton.jit
def _power_of(a, LOGARITHM: tl.constexpr):
    """2^_LIFT times the tail whose logarithm is fitted, which exp2 would else flush to 0."""
    return tl.exp2(polynomial(a, LOGARITHM, True))


@triton.jit
def gelu_value(x, a, b, FAST: tl.constexpr):
    """x Phi(x) = max(x, 0) - |x| Phi(-|x|)."""
    if FAST:
        distance = tl.minimum(tl.abs(x), _FARTHEST, propagate_nan=tl.PropagateNan.ALL)
        tail = distance * _power_of(distance, GELU_TAIL)
        above = tl.maximum(x, -1.0 * tl.zeros_like(x), propagate_nan=tl.PropagateNan.ALL)
        return tl.fma(tail, tl.full(x.shape, -(2.0**-_LIFT), x.dtype), above)
    else:
        distance, ratio, p, s, t = normal_tail(x, FAST)
        return tl.where(x < 0, -1.0 * tl.zeros_like(x), x) - distance * ratio * p * s * t


@triton.jit
def gelu_d1(x, a, b, FAST: tl.constexpr):
    """Phi(x) + x phi(x), which is 1 minus itself at -x; around its root, where no digits would be left, a polynomial
    that has the same root."""
    if FAST:
        distance = tl.minimum(tl.abs(x), _FARTHEST, propagate_nan=tl.PropagateNan.ALL)
        ROOT: tl.constexpr = table(GELU_ROOT, x.dtype, False)
        lifted = (-ROOT[0] - distance) * _power_of(distance, GELU_SLOPE)
        below = lifted * 2.0**-_LIFT
        return tl.where(x < 0, below, 1 - below)
    else:
        distance, ratio, p, s, t = normal_tail(x, FAST)
        below = (ratio - distance * _INV_SQRT_2PI) * p * s * t
        y = tl.where(x < 0, below, 1 - below)
        ROOT: tl.constexpr = table(GELU_ROOT, x.dtype, False)
        close = (x - ROOT[0] - ROOT[1]) * polynomial(x + 0.625, GELU_D1, FAST)
        return tl.where((x > -1.75) & (x < 0.5), close, y)


@triton.jit
def gelu_d2(x, a, b, FAST: tl.constexpr):
    distance, _, p, s, t = normal_tail(x, FAST)
    return (2 - distance * distance) * _INV_SQRT_2PI * p * s * t


@triton.jit
def _mish_parts(x, FAST: tl.constexpr):
    """tanh(softplus(x)) as e N/D below zero (e = exp(x), N = 2 + e, D = e N + 2), and N/D above it (e = exp(-x),
    N = 1 + 2e, D = N + 2e^2). Returns x held, p, s, t, e, e_lo, N, and 1/D in two parts."""
    x = near(x, _FAR)
    p, p_lo, s, t = exp_parts(-tl.abs(x), None, FAST)
    e = p * s * t
    n = tl.where(x < 0, 2 + e, 1 + 2 * e)
    a = tl.where(x < 0, 2.0, n)
    b = tl.where(x < 0, tl.fma(e, e, 2 * e), 2 * e * e)
    r, r_lo = over_sum(1.0, a, b, FAST)
    return x, p, s, t, e, p_lo * s * t, n, r, r_lo


@triton.jit
def mish_value(x, a, b, FAST: tl.constexpr):
    held, p, s, t, _, _, n, r, r_lo = _mish_parts(x, FAST)
    ratio = n * r
    if not FAST:
        ratio = tl.fma(n, r_lo, ratio)
    return tl.where(x < 0, held * ratio * p * s * t, x * ratio)


@triton.jit
def mish_d1(x, a, b, FAST: tl.constexpr):
    """e B/D^2 with e = exp(x), D = e^2 + 2e + 2 and B = 4 (1 + x) + e (4x + 6) + 4e^2 + e^3.

    Below, B is counted from its root r: with d = x - r and E = e - e_r it is
    4 (1 + e_r) d + E (e^2 + (4 + e_r)(e + e_r) + 4x + 6). Above, the derivative is
    1 - (4 + 4e (1 - x) + e^2 (2 - 4x))/D^2.
    """
    if FAST:
        x, p, s, t, e, _, n, r, _ = _mish_parts(x, FAST)
        m = 4 * (1 + x)
        below = tl.fma(e, m + 2 + e * (e + 4), m)
        above = (4 * x * (1 + e) * (e * e) * r + n) * r
        return tl.where(x < 0, below * (r * r) * p * s * t, above)
    else:
        ROOT: tl.constexpr = table(MISH_ROOT, x.dtype, False)
        WEIGHT: tl.constexpr = root_weight(ROOT, x.dtype)
        K: tl.constexpr = 4 * (1 + ROOT[2]) * WEIGHT
        x = _at_most(_at_least(x, _closing(x.dtype)), 30.0 if x.dtype == tl.float64 else 20.0)
        d, small = difference(x, ROOT[0])
        small -= ROOT[1]
        tail, scale, e, weighted = growth(d, small, ROOT)
        n = 2 + e
        square_root = tl.fma(e, n, tl.full(x.shape, 2.0, x.dtype))
        lost = tl.fma(e, e - (n - 2), tl.fma(e, n, 2 - square_root))
        square = tl.fma(square_root, square_root, 2 * square_root * lost)
        four_x = 4 * x
        factor = tl.fma(e, e + (4 + ROOT[2]), four_x + (6 + ROOT[2] * (4 + ROOT[2])))
        k = tl.full(x.shape, K, x.dtype)
        low = tl.fma(d, k, tl.fma(weighted - WEIGHT * ROOT[3], factor, k * small))
        high = tl.fma(e, tl.fma(e, 2 - four_x, 4 - four_x), tl.full(x.shape, 4.0, x.dtype))
        if x.dtype == tl.float64:
            ratio = tl.where(x < 0, low, high) / square
        else:
            ratio = tl.div_rn(tl.where(x < 0, low, high), square)
        return tl.where(x < 0, tl.fma(ratio, tail, ratio) * scale, 1 - ratio)


@triton.jit
def mish_d2(x, a, b, FAST: tl.constexpr):
    """2 T' + x T'', T = tanh(softplus): T' = 4 e (1 + e)/D^2 below zero, T'' = 4 e (1 + 2e)/D^2 - 16 e^2 (1 + e)^2/D^3;
    above it T' = 4 e^2 (1 + e)/D^2, T'' = e^2 (4 (2 + e)/D^2 - 16 (1 + e)^2/D^3)."""
    x, p, s, t, e, _, _, r, _ = _mish_parts(x, FAST)
    below = x < 0
    bend = 4 * tl.where(below, 1 + 2 * e, 2 + e) - 16 * tl.where(below, e, 1.0) * (1 + e) * (1 + e) * r
    v = r * r * (8 * (1 + e) + x * bend)
    return tl.where(below, v, v * e) * p * s * t
