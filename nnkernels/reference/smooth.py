"""The smooth activations."""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from .base import (
    FAR,
    Formula,
    Logistic,
    Tail,
    at_most_zero,
    compute_dtype,
    expm1,
    near,
    negated,
    negative_abs,
    product,
    product_error,
)
from .polynomials import MILLS_WHOLE_FLOAT, WHOLE_K

_GELU_SIGMOID = 1.702
_INV_SQRT_2PI = 0.3989422804014326779399460599344
_GELU_C1 = 1.5957691216057307117597842397375  # 2 sqrt(2/pi)
_GELU_C2 = 0.07135481627260025  # 0.044715 * _GELU_C1


_LOW = {
    torch.float32: {c: c - ctypes.c_float(c).value for c in (_GELU_C1, _GELU_C2, _GELU_SIGMOID)},
    torch.float64: {
        _GELU_C1: -9.96930880911092e-17,
        _GELU_C2: -6.175149918155315e-19,
        _GELU_SIGMOID: 4.263256414560601e-17,
    },
}


def _lost(constant: float, dtype: torch.dtype) -> float:
    """What rounding to `dtype` takes from a constant of a formula."""
    return _LOW[dtype][constant]


# Roots of derivatives, and what rounding them to float64 takes; with them z and e^z there.
_SILU_ROOT = (-1.2784645427610737951, -1.0946994183093437e-16)
_SILU_ROOT_E = 0.2784645427610738
_GELU_TANH_ROOT = (-0.7524614220710163, 3.635560509207687e-17)
_GELU_TANH_ROOT_Z = (-1.2311548723318988, 1.449217884953896e-17)
_GELU_TANH_ROOT_E = 0.29195521191476714
_GELU_ROOT = (-0.7517915246935645, 1.4956759177009883e-17)
_MISH_ROOT = (-1.1924312145154952, -4.8484829848031044e-17)
_MISH_ROOT_E = 0.3034825352815289


def _parts(root: tuple[float, float], dtype: torch.dtype) -> tuple[float, float]:
    """A number as a sum of two of `dtype`."""
    if dtype == torch.float64:
        return root
    high = ctypes.c_float(root[0]).value
    return high, root[0] - high


def _gelu_series(terms: int) -> list[float]:
    """The Taylor coefficients of gelu' at its root from d^1 on: gelu'' = phi - phi'', and phi^(k) = (-1)^k He_k phi."""
    r = _GELU_ROOT[0]
    hermite = [1.0, r]
    for k in range(1, terms + 2):
        hermite.append(r * hermite[k] - k * hermite[k - 1])
    density = _INV_SQRT_2PI * math.exp(-0.5 * r * r)
    return [(-1) ** k * (hermite[k] - hermite[k + 2]) * density / math.factorial(k + 1) for k in range(terms)]


_GELU_SERIES = _gelu_series(16)


def _twice_negative(x: Tensor, error: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """-2 |x + error|, and how much of it is error."""
    return 2 * negative_abs(x), None if error is None else 2 * torch.where(x < 0, error, -error)


def tanh_of(x: Tensor, error: Tensor | None = None) -> Tensor:
    """tanh(x + error)"""
    m = expm1(*_twice_negative(x, error))
    return torch.where(x < 0, m, negated(m)) / (2 + m)


def slope_of_tanh(x: Tensor, v: Tensor | float = 1.0, error: Tensor | None = None) -> Tensor:
    """v tanh'(x + error)"""
    tail = Tail(*_twice_negative(x, error))
    return tail.times(4 * v / (1 + tail.e) ** 2)


class _Gate(Formula):
    """x sigmoid(z(x)); `_argument` gives z, its rounding error, z' and z''."""

    @staticmethod
    def _argument(x: Tensor, a: float) -> tuple[Tensor, Tensor | None, Tensor | float, Tensor | float]:
        raise TypeError("a gate has to define its argument")

    @staticmethod
    def _far(a: float) -> float:
        """Where |x| no longer matters."""
        return 1e5

    @classmethod
    def value(cls, x: Tensor, a: float, b: float) -> Tensor:
        z, error, _, _ = cls._argument(near(x, cls._far(a)), a)
        s = Logistic(z, error)
        return torch.where(s.positive, x * s.r, s.tail.times(near(x, cls._far(a)) * s.r))

    @classmethod
    def d1(cls, x: Tensor, a: float, b: float) -> Tensor:
        x = near(x, cls._far(a))
        z, error, dz, _ = cls._argument(x, a)
        s = Logistic(z, error)
        w = x * dz
        below = s.tail.times(s.r * s.r * cls._bracket(at_most_zero(z), error, x))
        return torch.where(s.positive, s.r * (1 + s.tail.times(w) * s.r), below)

    @staticmethod
    def _bracket(z: Tensor, error: Tensor | None, x: Tensor) -> Tensor:
        """1 + w + e, w = x z', both terms counted from its root, so that no digits are lost around it."""
        root, low = _parts(_SILU_ROOT, x.dtype)
        distance = (z - root) + ((0.0 if error is None else error) - low)
        return distance + _SILU_ROOT_E * torch.expm1(distance)

    @classmethod
    def d2(cls, x: Tensor, a: float, b: float) -> Tensor:
        x = near(x, cls._far(a))
        z, error, dz, ddz = cls._argument(x, a)
        s = Logistic(z, error)
        return s.slope(2 * dz + x * ddz) + s.curvature(x * dz * dz)


class sigmoid(Formula):
    @staticmethod
    def value(x, a, b):
        return Logistic(x).sigmoid()

    @staticmethod
    def d1(x, a, b):
        return Logistic(x).slope()

    @staticmethod
    def d2(x, a, b):
        return Logistic(x).curvature()

    @staticmethod
    def from_output(grad, y, a):
        return torch.ops.aten.sigmoid_backward(grad, y)


class tanh(Formula):
    @staticmethod
    def value(x, a, b):
        return tanh_of(x)

    @staticmethod
    def d1(x, a, b):
        return slope_of_tanh(x)

    @staticmethod
    def d2(x, a, b):
        return slope_of_tanh(x, -2 * tanh_of(x))

    @staticmethod
    def from_output(grad, y, a):
        return torch.ops.aten.tanh_backward(grad, y)


class silu(_Gate):
    @staticmethod
    def _argument(x, a):
        return x, None, 1.0, 0.0


class swish(_Gate):
    @staticmethod
    def _far(a):
        return min(1e5 / abs(a), 1e30) if a else 1e5

    @staticmethod
    def _argument(x, a):
        z = product(a, x)
        return z, None if a == 1 else product_error(x, a, z), a, 0.0


class gelu_sigmoid(_Gate):
    @staticmethod
    def _argument(x, a):
        z = product(_GELU_SIGMOID, x)
        return z, product_error(x, _GELU_SIGMOID, z) + x * _lost(_GELU_SIGMOID, x.dtype), _GELU_SIGMOID, 0.0


class gelu_tanh(_Gate):
    @staticmethod
    def _argument(x, a):
        x = near(x, 100.0)
        square = product(x, x)
        cubic = product(_GELU_C2, square)
        factor = _GELU_C1 + cubic
        part = factor - _GELU_C1
        lost = (_GELU_C1 - (factor - part)) + (cubic - part)  # Knuth's two-sum: either term may be the larger
        lost = lost + product_error(square, _GELU_C2, cubic) + _GELU_C2 * product_error(x, x, square)
        lost = lost + _lost(_GELU_C1, x.dtype) + square * _lost(_GELU_C2, x.dtype)
        z = product(x, factor)
        error = product_error(x, factor, z) + x * lost
        return z, error.detach(), _GELU_C1 + 3 * cubic, 6 * _GELU_C2 * x

    @staticmethod
    def _bracket(z, error, x):
        root, low = _parts(_GELU_TANH_ROOT, x.dtype)
        root_z, low_z = _parts(_GELU_TANH_ROOT_Z, x.dtype)
        x = at_most_zero(near(x, 100.0))
        w = ((x - root) - low) * (_GELU_C1 + 3 * _GELU_C2 * (x * (x + root) + root * root))
        return w + _GELU_TANH_ROOT_E * torch.expm1((z - root_z) + (error - low_z))


def _mills(a: Tensor) -> Tensor:
    """R(a), a >= 0: what remains of the normal tail Phi(-a) = R(a) exp(-a^2/2) without its exponential."""
    t = 1 / (a + WHOLE_K)
    w = (a - WHOLE_K) * t
    p = torch.full_like(w, MILLS_WHOLE_FLOAT[-1])
    for c in reversed(MILLS_WHOLE_FLOAT[:-1]):
        p = p * w + c
    return p * t


class gelu(Formula):
    @staticmethod
    def _normal(x: Tensor) -> tuple[Tensor, Tensor, Tail]:
        """a = |x|, R with Phi(-a) = R exp(-a^2/2), and that exponential."""
        a = -negative_abs(near(x, 100.0))
        square = product(a, a)
        mills = _mills(a) if x.dtype == torch.float32 else 0.5 * torch.special.erfcx(a * math.sqrt(0.5))
        return a, mills, Tail(-0.5 * square, -0.5 * product_error(a, a, square))

    @staticmethod
    def value(x, a, b):
        a, mills, tail = gelu._normal(x)
        return torch.where(x < 0, tail.times(-a * mills), x * (1 - tail.times(mills)))

    @staticmethod
    def d1(x, a, b):
        a, mills, tail = gelu._normal(x)
        below = tail.times(mills - a * _INV_SQRT_2PI)
        root, low = _parts(_GELU_ROOT, x.dtype)
        distance = near((x - root) - low, 0.25)
        series = torch.zeros_like(x)
        for coefficient in reversed(_GELU_SERIES):
            series = (series + coefficient) * distance
        below = torch.where((x > root - 0.25) & (x < root + 0.25), series, below)
        return torch.where(x < 0, below, 1 - below)

    @staticmethod
    def d2(x, a, b):
        a, _, tail = gelu._normal(x)
        return tail.times(_INV_SQRT_2PI * (2 - a * a))


class mish(Formula):
    """x N/D: for x < 0, e = exp(x), N = e (2 + e), D = N + 2; above, with e = exp(-x), N = 1 + 2e and D = N + 2e^2.

    There the value is x (1 - 2e^2/D), so that autograd's second derivative does not cancel.
    """

    @staticmethod
    def value(x, a, b):
        tail = Tail(negative_abs(near(x)))
        e = tail.e
        below = tail.times(near(x) * (2 + e) / (e * (2 + e) + 2))
        above = 1 - 2 * e * e / (1 + 2 * e + 2 * e * e)
        return torch.where(x < 0, below, x * above)

    @staticmethod
    def d1(x, a, b):
        x = near(x)
        tail = Tail(negative_abs(x))
        e = tail.e
        d, d_above = e * (2 + e) + 2, 1 + 2 * e + 2 * e * e
        root, low = _parts(_MISH_ROOT, x.dtype)
        distance = (at_most_zero(x) - root) - low
        above_root = _MISH_ROOT_E * torch.expm1(distance)
        factor = e * e + (4 + _MISH_ROOT_E) * (e + _MISH_ROOT_E) + 4 * x + 6
        below = tail.times((4 * (1 + _MISH_ROOT_E) * distance + above_root * factor) / d**2)
        above = ((1 + 2 * e) * d_above + 4 * tail.times(x) * e * (1 + e)) / d_above**2
        return torch.where(x < 0, below, above)

    @staticmethod
    def d2(x, a, b):
        x = near(x)
        tail = Tail(negative_abs(x))
        e = tail.e
        d, d_above = e * (2 + e) + 2, 1 + 2 * e + 2 * e * e
        below = tail.times(8 * (1 + e) / d**2 + x * (4 * (1 + 2 * e) / d**2 - 16 * e * (1 + e) ** 2 / d**3))
        bend = x * (4 * (2 + e) * d_above - 16 * (1 + e) ** 2) / d_above**3
        return torch.where(x < 0, below, tail.times(e * (8 * (1 + e) / d_above**2 + bend)))


class softplus(Formula):
    @staticmethod
    def _logistic(x: Tensor, a: float) -> tuple[Tensor, Logistic]:
        z = a * x
        x = near(x, FAR / abs(a)) if a else x
        bounded = product(a, x)
        return z, Logistic(bounded, None if a == 1 else product_error(x, a, bounded))

    @staticmethod
    def value(x, a, b):
        z, s = softplus._logistic(x, a)
        e = s.tail.e
        log = torch.where(e > 1e-20, torch.log1p(e), e)  # a GPU's log1p of a subnormal number may be 0
        return torch.where(z > b, x, (torch.where(z < 0, 0.0, z) + log) / a)

    @staticmethod
    def d1(x, a, b):
        z, s = softplus._logistic(x, a)
        return torch.where(z > b, 1.0, s.sigmoid())

    @staticmethod
    def d2(x, a, b):
        z, s = softplus._logistic(x, a)
        return torch.where(z > b, 0.0, s.slope(a))

    @staticmethod
    def from_output(grad, y, a):
        return (grad * -torch.expm1(-a * y.to(compute_dtype(y)))).to(grad.dtype)


class softsign(Formula):
    @staticmethod
    def value(x, a, b):
        """Beyond 1 as 1 - 1 / (1 + |x|), whose derivative does not cancel."""
        r = 1 / (1 + x.abs())
        small = x.abs() < 1
        far = torch.where(x < 0, r - 1, 1 - r)
        return torch.where(small, torch.where(small, x, 0.0) * r, far)

    @staticmethod
    def d1(x, a, b):
        r = 1 / (1 - negative_abs(x))
        return r * r

    @staticmethod
    def d2(x, a, b):
        r = 1 / (1 - negative_abs(x))
        return torch.where(x < 0, 2.0, torch.where(x > 0, -2.0, x)) * r * r * r

    @staticmethod
    def from_output(grad, y, a):
        return (grad * (1 - y.to(compute_dtype(y)).abs()).square()).to(grad.dtype)


class logsigmoid(Formula):
    @staticmethod
    def value(x, a, b):
        return -softplus.value(-x, 1.0, math.inf)

    @staticmethod
    def d1(x, a, b):
        return Logistic(-x).sigmoid()

    @staticmethod
    def d2(x, a, b):
        return -Logistic(x).slope()

    @staticmethod
    def from_output(grad, y, a):
        return (grad * -torch.expm1(y.to(compute_dtype(y)))).to(grad.dtype)


class tanhshrink(Formula):
    """Near zero (x cosh x - sinh x) / cosh x, whose numerator is the sum of 2k/(2k+1)! x^(2k+1): nothing cancels."""

    @staticmethod
    def value(x, a, b):
        tail = Tail(2 * negative_abs(x))
        e, is_small = tail.e, x.abs() < 1.5
        small = torch.where(is_small, x, 0.0)
        square = small * small
        series = torch.zeros_like(small)
        for k in range(15 if x.dtype == torch.float64 else 9, 0, -1):
            series = series * square + 2 * k / math.factorial(2 * k + 1)
        # square * series first: x^3 alone would pass through the subnormal numbers before its last factor
        near_zero = small * (square * series) * (2 * tail.root)  # 1 / cosh x = 2 exp(-|x|) / (1 + exp(-2 |x|))
        part = torch.where(is_small, near_zero, torch.where(x < 0, 1 - e, e - 1)) / (1 + e)
        return torch.where(is_small, part, x + part)

    @staticmethod
    def d1(x, a, b):
        return tanh_of(x) * tanh_of(x)

    @staticmethod
    def d2(x, a, b):
        return slope_of_tanh(x, 2 * tanh_of(x))
