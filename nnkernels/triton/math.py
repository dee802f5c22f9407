"""The primitives of the formulas, for float32 and float64 tensors, from portable `tl` operations alone.

`FAST` marks float32 that will be rounded to 16 bits: a relative error of 2^-14 leaves those within 1 ulp, so the
hardware's exp2 and rsqrt and shorter polynomials do. No function contains a sum whose meaning would change if the
compiler contracted a product into it: wherever a rounding error is computed, `tl.fma` is written out.
"""

import triton
import triton.language as tl

from . import polynomials as fitted

EXPM1 = tl.constexpr((fitted.EXPM1_FAST, fitted.EXPM1_FLOAT, fitted.EXPM1_DOUBLE))
LOG1P = tl.constexpr((fitted.LOG1P_FAST, fitted.LOG1P_FLOAT, fitted.LOG1P_DOUBLE))
TANHRES = tl.constexpr((fitted.TANHRES_FAST, fitted.TANHRES_FLOAT, fitted.TANHRES_DOUBLE))
MILLS = tl.constexpr((fitted.MILLS_FAST, fitted.MILLS_FLOAT, fitted.MILLS_DOUBLE))
MILLS_K = tl.constexpr((fitted.MILLS_K_FAST, fitted.MILLS_K_FLOAT, fitted.MILLS_K_DOUBLE))
NEAR = tl.constexpr((None, None, fitted.NEAR_DOUBLE))
GELU_TAIL = tl.constexpr((fitted.GELU_TAIL_FAST, None, None))
GELU_SLOPE = tl.constexpr((fitted.GELU_SLOPE_FAST, None, None))
GELU_D1 = tl.constexpr((None, fitted.GELU_D1_FLOAT, fitted.GELU_D1_DOUBLE))
GELU_ROOT = tl.constexpr(
    (
        None,
        (fitted.GELU_ROOT_HI_FLOAT, fitted.GELU_ROOT_LO_FLOAT),
        (fitted.GELU_ROOT_HI_DOUBLE, fitted.GELU_ROOT_LO_DOUBLE),
    )
)

# Roots of derivatives: high and low part, and e^root in two parts; of gelu_tanh's argument beside its root.
SILU_ROOT = tl.constexpr(
    (
        None,
        (
            fitted.SILU_ROOT_HI_FLOAT,
            fitted.SILU_ROOT_LO_FLOAT,
            fitted.SILU_ROOT_E_HI_FLOAT,
            fitted.SILU_ROOT_E_LO_FLOAT,
        ),
        (
            fitted.SILU_ROOT_HI_DOUBLE,
            fitted.SILU_ROOT_LO_DOUBLE,
            fitted.SILU_ROOT_E_HI_DOUBLE,
            fitted.SILU_ROOT_E_LO_DOUBLE,
        ),
    )
)
GELU_TANH_ROOT = tl.constexpr(
    (
        None,
        (fitted.GELU_TANH_ROOT_HI_FLOAT, fitted.GELU_TANH_ROOT_LO_FLOAT),
        (fitted.GELU_TANH_ROOT_HI_DOUBLE, fitted.GELU_TANH_ROOT_LO_DOUBLE),
    )
)
GELU_TANH_ROOT_Z = tl.constexpr(
    (
        None,
        (
            fitted.GELU_TANH_ROOT_Z_HI_FLOAT,
            fitted.GELU_TANH_ROOT_Z_LO_FLOAT,
            fitted.GELU_TANH_ROOT_E_HI_FLOAT,
            fitted.GELU_TANH_ROOT_E_LO_FLOAT,
        ),
        (
            fitted.GELU_TANH_ROOT_Z_HI_DOUBLE,
            fitted.GELU_TANH_ROOT_Z_LO_DOUBLE,
            fitted.GELU_TANH_ROOT_E_HI_DOUBLE,
            fitted.GELU_TANH_ROOT_E_LO_DOUBLE,
        ),
    )
)
MISH_ROOT = tl.constexpr(
    (
        None,
        (
            fitted.MISH_ROOT_HI_FLOAT,
            fitted.MISH_ROOT_LO_FLOAT,
            fitted.MISH_ROOT_E_HI_FLOAT,
            fitted.MISH_ROOT_E_LO_FLOAT,
        ),
        (
            fitted.MISH_ROOT_HI_DOUBLE,
            fitted.MISH_ROOT_LO_DOUBLE,
            fitted.MISH_ROOT_E_HI_DOUBLE,
            fitted.MISH_ROOT_E_LO_DOUBLE,
        ),
    )
)

_LOG2E = tl.constexpr(1.4426950408889634)
# log(2) = high + low; high ends in zeros, so that its product with any exponent is exact
LN2_FLOAT = tl.constexpr((0.693145751953125, 1.428606765330187e-06))
LN2_DOUBLE = tl.constexpr((6.93147180369123816490e-01, 1.90821492927058770002e-10))
_MAGIC_FLOAT = tl.constexpr(1.5 * 2**23)
_MAGIC_DOUBLE = tl.constexpr(1.5 * 2**52)


@triton.constexpr_function
def table(tables, dtype, fast):
    return tables[2 if dtype == tl.float64 else 0 if fast else 1]


@triton.constexpr_function
def _degree(table):
    return len(table) - 1


@triton.constexpr_function
def is_fast(pointer_type):
    return pointer_type.element_ty.primitive_bitwidth == 16


@triton.constexpr_function
def compute_type(pointer_type):
    return tl.float64 if pointer_type.element_ty == tl.float64 else tl.float32


@triton.jit
def polynomial(x, TABLES: tl.constexpr, FAST: tl.constexpr):
    """The fitted polynomial at x (Horner), from the table for x's type."""
    P: tl.constexpr = table(TABLES, x.dtype, FAST)
    LAST: tl.constexpr = _degree(P)
    y = tl.full(x.shape, P[LAST], x.dtype)
    for i in tl.static_range(LAST):
        y = tl.fma(y, x, tl.full(x.shape, P[LAST - 1 - i], x.dtype))
    return y


@triton.jit
def near(x, bound):
    """x, held within +-bound where the result no longer depends on it, so that no infinity meets a zero; keeps NaN."""
    above = tl.maximum(x, -bound, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(above, bound, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def near_over(x, a):
    """x, held where |a x| <= 2000 or |x| is almost the largest number (exp(-2000) is 0 in every type)."""
    TINY: tl.constexpr = 1e-304 if x.dtype == tl.float64 else 1e-35
    return near(x, 2000 / tl.maximum(tl.abs(a), tl.full((), TINY, x.dtype)))


@triton.jit
def copysign(magnitude, x):
    """magnitude, which is not negative, with the sign of x (of zeros too)."""
    if x.dtype == tl.float64:
        sign = x.to(tl.int64, bitcast=True) & -0x8000000000000000
        return (magnitude.to(tl.int64, bitcast=True) | sign).to(tl.float64, bitcast=True)
    else:
        sign = x.to(tl.int32, bitcast=True) & -0x80000000
        return (magnitude.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)


@triton.jit
def over_sum(x, a, b, FAST: tl.constexpr):
    """x/(a + b) and the error of that quotient (0 if FAST), for a + b from 1 to 1e9, the smaller at least -larger.

    Float's division is approximate on GPUs. The exact remainder, which also counts what rounding took from a + b, mends
    the quotient; taken once more, it is the error that is left. FAST squares the reciprocal root, which is one
    instruction, while a division has to look after the ends of its range.
    """
    d = a + b
    if FAST:
        root = tl.rsqrt(d)
        q = x * (root * root)
        return q, tl.zeros_like(q)
    else:
        r = 1.0 / d
        q = x * r
        x += tl.zeros_like(q)
        lost = tl.minimum(a, b) - (d - tl.maximum(a, b))
        q = tl.fma(r, tl.fma(-lost, q, tl.fma(-d, q, x)), q)
        return q, r * tl.fma(-lost, q, tl.fma(-d, q, x))


@triton.jit
def divide(x, d, FAST: tl.constexpr):
    """x/d over the whole range, correctly rounded unless FAST."""
    if d.dtype == tl.float64 or FAST:
        return x / d
    else:
        return tl.div_rn(x, d)


@triton.jit
def _reduce(x, BIAS: tl.constexpr):
    """x = n log(2) + r with |r| <= log(2)/2: r, and an integer whose low bits hold n + BIAS.

    Adding 1.5 * 2^23 (2^52) leaves no room for a fraction: the sum ends in the integer nearest to x log2(e).
    """
    if x.dtype == tl.float64:
        MAGIC: tl.constexpr = _MAGIC_DOUBLE + BIAS
        HIGH: tl.constexpr = LN2_DOUBLE[0]
        LOW: tl.constexpr = LN2_DOUBLE[1]
        BITS: tl.constexpr = tl.int64
    else:
        MAGIC: tl.constexpr = _MAGIC_FLOAT + BIAS
        HIGH: tl.constexpr = LN2_FLOAT[0]
        LOW: tl.constexpr = LN2_FLOAT[1]
        BITS: tl.constexpr = tl.int32
    shifted = tl.fma(x, tl.full(x.shape, _LOG2E, x.dtype), tl.full(x.shape, MAGIC, x.dtype))
    n = shifted - MAGIC
    r = tl.fma(n, tl.full(x.shape, -HIGH, x.dtype), x)
    r = tl.fma(n, tl.full(x.shape, -LOW, x.dtype), r)
    return r, shifted.to(BITS, bitcast=True)


@triton.jit
def _power_of_two(biased, dtype: tl.constexpr):
    """2^(biased - bias), the biased exponent given in the low bits; 0 where it is 0."""
    if dtype == tl.float64:
        return (biased << 52).to(tl.float64, bitcast=True)
    else:
        return (biased << 23).to(tl.float32, bitcast=True)


@triton.jit
def exp_parts(z, lo, FAST: tl.constexpr):
    """exp(z + lo) = (p + p_lo) s t, for z <= 0 (up to 130 is right too) and |lo| << 1 or None.

    exp(-100) alone is subnormal in float, short of digits; (v p) s t is not: p is about 1, and s = 2^(n/2), t = 2^(n -
    n/2) are normal numbers, so that v s is exact and v s t is rounded once. The biased exponents of s and t add up to
    n + 254 (n + 2046), whence one shift gives each; where that reaches 0, s is 0, and so is the product. FAST has
    p = s, the root, for the same reason: Triton's exp2 flushes subnormal results, and bfloat16 has as small numbers.
    Returns p, p_lo, s, t.
    """
    if FAST:
        root = tl.exp2(z * (0.5 * _LOG2E))
        return root, tl.zeros_like(root), root, tl.full(z.shape, 1.0, z.dtype)
    else:
        DOUBLE: tl.constexpr = z.dtype == tl.float64
        LOWEST: tl.constexpr = -1418.3 if DOUBLE else -176.2
        BIAS: tl.constexpr = 2046 if DOUBLE else 254
        MASK: tl.constexpr = 4095 if DOUBLE else 511
        r, bits = _reduce(tl.where(z < LOWEST, LOWEST, z), BIAS)
        if lo is not None:
            r += lo
        above_1 = tl.fma(r * r, polynomial(r, EXPM1, FAST), r)
        p = 1 + above_1
        biased = bits & MASK
        half = biased >> 1
        return p, above_1 - (p - 1), _power_of_two(half, z.dtype), _power_of_two(biased - half, z.dtype)


@triton.constexpr_function
def root_shift(dtype):
    return 66 if dtype == tl.float64 else 32


@triton.constexpr_function
def root_weight(root, dtype):
    return root[2] * 2.0 ** -root_shift(dtype)


@triton.jit
def growth(d, lo, ROOT: tl.constexpr):
    """e = e_root exp(d + lo), d from a root: 1 + tail and the scale, whose product is e/weight; e; weight (e - e_root).

    The difference keeps its digits at the root, since it comes from expm1(d). The weight is e_root with a power of two
    that keeps the scale a normal number until e is 0: as a factor of what e multiplies it costs nothing. What rounding
    took from e_root joins the exponent here; from the difference the caller has to take it.
    """
    SHIFT: tl.constexpr = root_shift(d.dtype)
    WEIGHT: tl.constexpr = root_weight(ROOT, d.dtype)
    r, bits = _reduce(d, SHIFT + (1023 if d.dtype == tl.float64 else 127))
    r += lo + ROOT[3] / ROOT[2]
    scale = _power_of_two(bits, d.dtype)
    tail = tl.fma(r * r, polynomial(r, EXPM1, False), r)
    both = scale * (WEIGHT * WEIGHT)
    weighted = tl.fma(both, tail, both - WEIGHT * ROOT[2])
    leading = scale * WEIGHT
    return tail, scale, tl.fma(leading, tail, leading), weighted


@triton.jit
def difference(x, y):
    """x - y and the error of that (Knuth), for an x that is no product: see `gelu_tanh_d1`."""
    d = x - y
    back = d - x
    return d, (x - (d - back)) - (y + back)


@triton.jit
def quotient(x, d):
    """x/d within 1 ulp, for a normal x and d from 1 to 1e9: what is left over mends an approximate quotient."""
    r = 1.0 / d
    q = x * r
    return tl.fma(r, tl.fma(-d, q, x), q)


@triton.jit
def expm1(x, FAST: tl.constexpr):
    """exp(x) - 1 for x <= 88: 2^n expm1(r) + (2^n - 1), where the bracket is exact or far from cancelling."""
    r, bits = _reduce(tl.where(x < -40.0, -40.0, x), 1023 if x.dtype == tl.float64 else 127)
    power = _power_of_two(bits, x.dtype)
    return tl.fma(power, tl.fma(r * r, polynomial(r, EXPM1, FAST), r), power - 1)


@triton.jit
def exp_less_two_terms(x, FAST: tl.constexpr):
    """exp(x), exp(x) - 1 and exp(x) - 1 - x for x <= 0, the last near 0 as x^2 P."""
    LOWEST: tl.constexpr = -700.0 if x.dtype == tl.float64 else -87.0
    r, bits = _reduce(tl.where(x < LOWEST, LOWEST, x), 1023 if x.dtype == tl.float64 else 127)
    power = _power_of_two(bits, x.dtype)
    tail = tl.fma(r * r, polynomial(r, EXPM1, FAST), r)
    held = tl.where(x < -0.34, -0.34, x)
    gap = tl.where(x < -0.34, tl.fma(power, tail, (power - 1) - x), held * held * polynomial(held, EXPM1, FAST))
    return tl.fma(power, tail, power), tl.fma(power, tail, power - 1), gap


@triton.jit
def log1p_ratio(u, FAST: tl.constexpr):
    """log(1 + u) / u for u in [0, 1]."""
    return polynomial(2 * u - 1, LOG1P, FAST)


@triton.jit
def tanh(x, FAST: tl.constexpr):
    """-m/(2 + m), m = expm1(-2|x|), with the sign of x."""
    m = expm1(-2 * tl.abs(x), FAST)
    y, _ = over_sum(tl.abs(m), 2.0, m, FAST)
    return copysign(y, x)


@triton.jit
def normal_tail(x, FAST: tl.constexpr):
    """Phi(-a) = R p s t and exp(-a^2/2) = p s t, for a = |x|: returns a, R, p, s, t.

    R, the Mills ratio over sqrt(2 pi), is smooth and falls like 1/a: a polynomial in (a - k)/(a + k), over a + k; in
    float64 below 3, where that quotient's roundings would show, a polynomial in a. The rounding error of a^2 is carried
    into the exponential, which would magnify it by a^2/2. a is held where all is 0.
    """
    FARTHEST: tl.constexpr = 40.0 if x.dtype == tl.float64 else 15.0
    K: tl.constexpr = table(MILLS_K, x.dtype, FAST)
    a = tl.abs(x)
    a = tl.where(a > FARTHEST, FARTHEST, a)
    d = a + K
    u = 1.0 / d
    u = tl.fma(u, tl.fma(-u, a - (d - K), tl.fma(-u, d, tl.full(a.shape, 1.0, a.dtype))), u)
    ratio = u * polynomial((a - K) * u, MILLS, FAST)
    if x.dtype == tl.float64:
        close = polynomial(tl.where(a < 3, a, 3.0) * (2 / 3) - 1, NEAR, FAST)
        ratio = tl.where(a < 3, close, ratio)
    square = a * a
    p, _, s, t = exp_parts(-0.5 * square, -0.5 * tl.fma(a, a, -square), FAST)
    return a, ratio, p, s, t


@triton.jit
def logistic(z, lo, FAST: tl.constexpr):
    """exp(-|z + lo|) = e = p s t, and r + r_lo = 1/(1 + e): sigmoid is r where z >= 0, and r e below.

    Returns p, s, t, r, r_lo; r_lo counts also what p has lost.
    """
    if lo is not None:
        lo = tl.where(z < 0, lo, -lo)
    p, p_lo, s, t = exp_parts(-tl.abs(z), lo, FAST)
    r, r_lo = over_sum(1.0, 1.0, p * s * t, FAST)
    if not FAST:
        r_lo = tl.fma(-r * r, p_lo * s * t, r_lo)
    return p, s, t, r, r_lo


@triton.jit
def rounded_quotient(x, d):
    """x / d, rounded: a compiler may draw a product with 1 / d into the subtraction that follows, which then takes off
    another number than the one that is stored."""
    d = tl.zeros_like(x) + d
    if x.dtype == tl.float64:
        return x / d
    else:
        return tl.div_rn(x, d)
