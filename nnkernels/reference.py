"""The family in plain torch operations: the truth that the kernels are held against, and the route for every tensor,
transform and compiler that custom kernels cannot follow.

Each class is named after its row in the catalogue. `value`, `d1` and `d2` take a tensor of the compute type and the two
constants, and are differentiable to any order. They are written so that tails keep their digits:

- exp only ever sees a negative argument, written with `where` because the derivative of `abs` at 0 is 0;
- exp(z) enters a product as two factors exp(z/2), since exp(z) itself may be subnormal and short of digits;
- a rounded product z = b x is followed by its rounding error, because exp magnifies a relative error of z by |z|.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .registry import activation

SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946
_GELU_SIGMOID = 1.702
_INV_SQRT_2PI = 0.3989422804014326779399460599344
_GELU_C1 = 1.5957691216057307117597842397375  # 2 sqrt(2/pi)
_GELU_C2 = 0.07135481627260025  # 0.044715 * _GELU_C1
_FAR = 2000.0  # exp(-_FAR) is 0 in every type


def _negative_abs(x: Tensor) -> Tensor:
    return torch.where(x < 0, x, -x)


def _near(x: Tensor, bound: float = _FAR) -> Tensor:
    """`x`, bounded where the result no longer depends on it, so that no infinity meets a zero.

    Not `clamp`, whose derivative at its bounds and at NaN is 0.
    """
    return torch.where(x > bound, bound, torch.where(x < -bound, -bound, x))


def _at_most_zero(x: Tensor) -> Tensor:
    return torch.where(x > 0, 0.0, x)


def _product_error(a: Tensor, b: Tensor | float, product: Tensor) -> Tensor:
    """a b - product (Dekker 1971): what rounding took away. It carries no derivative."""
    a, product = a.detach(), product.detach()
    b = b.detach() if isinstance(b, Tensor) else torch.full_like(a, b)
    splitter = float(2**27 + 1 if a.dtype == torch.float64 else 2**12 + 1)

    def split(v: Tensor) -> tuple[Tensor, Tensor]:
        high = splitter * v - (splitter * v - v)
        return high, v - high

    (a1, a2), (b1, b2) = split(a), split(b)
    return ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


_LOW = {
    torch.float32: {c: c - float(torch.tensor(c, dtype=torch.float32)) for c in (_GELU_C1, _GELU_C2, _GELU_SIGMOID)},
    torch.float64: {_GELU_C1: -9.96930880911092e-17, _GELU_C2: -6.175149918155315e-19, _GELU_SIGMOID: 0.0},
}


def _lost(constant: float, dtype: torch.dtype) -> float:
    """What rounding to `dtype` takes from a constant of a formula."""
    return _LOW[dtype][constant]


class _Tail:
    """e = exp(z), z <= 0, held as the square of `root`; `times(v)` is v e, exact down to the subnormal numbers."""

    def __init__(self, z: Tensor, error: Tensor | None = None) -> None:
        self.root = torch.exp(0.5 * z) if error is None else torch.exp(0.5 * z) * (1 + 0.5 * error)
        self.e = self.root * self.root

    def times(self, v: Tensor | float) -> Tensor:
        return (self.root * v) * self.root


class _Logistic:
    """sigmoid(z) and its derivatives, z = x's scaled copy with rounding error `error`."""

    def __init__(self, z: Tensor, error: Tensor | None = None) -> None:
        self.positive = z >= 0
        if error is not None:
            error = torch.where(z < 0, error, -error)
        self.tail = _Tail(_negative_abs(z), error)
        self.r = 1 / (1 + self.tail.e)

    def sigmoid(self, v: Tensor | float = 1.0) -> Tensor:
        """v sigmoid(z)"""
        v_r = v * self.r
        return torch.where(self.positive, v_r, self.tail.times(v_r))

    def slope(self, v: Tensor | float = 1.0) -> Tensor:
        """v sigmoid'(z)"""
        return self.tail.times(v * self.r * self.r)

    def curvature(self, v: Tensor | float = 1.0) -> Tensor:
        """v sigmoid''(z)"""
        bend = (1 - self.tail.e) * self.r
        return self.slope(v * torch.where(self.positive, -bend, bend))


def _tanh(x: Tensor) -> Tensor:
    m = torch.expm1(2 * _negative_abs(x))
    return torch.where(x < 0, m, -m) / (2 + m)


def _d_tanh(x: Tensor, v: Tensor | float = 1.0) -> Tensor:
    tail = _Tail(2 * _negative_abs(x))
    return tail.times(4 * v / (1 + tail.e) ** 2)


class Formula:
    """One activation: its value and two derivatives at `x`, for the constants `a` and `b`."""

    @staticmethod
    def value(x: Tensor, a: float, b: float) -> Tensor:
        raise TypeError("a formula has to define its value")

    @staticmethod
    def d1(x: Tensor, a: float, b: float) -> Tensor:
        raise TypeError("a formula has to define its first derivative")

    @staticmethod
    def d2(x: Tensor, a: float, b: float) -> Tensor:
        return torch.zeros_like(x)


class _Gate(Formula):
    """x sigmoid(z(x)); `_argument` gives z, its rounding error, z' and z''."""

    @staticmethod
    def _argument(x: Tensor, a: float) -> tuple[Tensor, Tensor | None, Tensor | float, Tensor | float]:
        raise TypeError("a gate has to define its argument")

    @classmethod
    def value(cls, x: Tensor, a: float, b: float) -> Tensor:
        z, error, _, _ = cls._argument(_near(x, 1e5), a)
        s = _Logistic(z, error)
        return torch.where(s.positive, x * s.r, s.tail.times(_near(x, 1e5) * s.r))

    @classmethod
    def d1(cls, x: Tensor, a: float, b: float) -> Tensor:
        x = _near(x, 1e5)
        z, error, dz, _ = cls._argument(x, a)
        s = _Logistic(z, error)
        w = x * dz
        return torch.where(s.positive, s.r * (1 + s.tail.times(w) * s.r), s.tail.times(s.r * (1 + w * s.r)))

    @classmethod
    def d2(cls, x: Tensor, a: float, b: float) -> Tensor:
        x = _near(x, 1e5)
        z, error, dz, ddz = cls._argument(x, a)
        s = _Logistic(z, error)
        return s.slope(2 * dz + x * ddz) + s.curvature(x * dz * dz)


class sigmoid(Formula):
    @staticmethod
    def value(x, a, b):
        return _Logistic(x).sigmoid()

    @staticmethod
    def d1(x, a, b):
        return _Logistic(x).slope()

    @staticmethod
    def d2(x, a, b):
        return _Logistic(x).curvature()


class tanh(Formula):
    @staticmethod
    def value(x, a, b):
        return _tanh(x)

    @staticmethod
    def d1(x, a, b):
        return _d_tanh(x)

    @staticmethod
    def d2(x, a, b):
        return _d_tanh(x, -2 * _tanh(x))


class relu(Formula):
    @staticmethod
    def value(x, a, b):
        return torch.relu(x)

    @staticmethod
    def d1(x, a, b):
        return torch.where(x <= 0, 0.0, torch.ones_like(x))


class relu6(Formula):
    @staticmethod
    def value(x, a, b):
        return hardtanh.value(x, 0.0, 6.0)

    @staticmethod
    def d1(x, a, b):
        return hardtanh.d1(x, 0.0, 6.0)


class relu_squared(Formula):
    @staticmethod
    def value(x, a, b):
        return torch.relu(x) * torch.relu(x)

    @staticmethod
    def d1(x, a, b):
        return 2 * torch.relu(x)

    @staticmethod
    def d2(x, a, b):
        return torch.where(x > 0, 2.0, torch.zeros_like(x))


class leaky_relu(Formula):
    @staticmethod
    def value(x, a, b):
        return torch.where(x > 0, x, a * x)

    @staticmethod
    def d1(x, a, b):
        return torch.where(x > 0, 1.0, torch.full_like(x, a))


class elu(Formula):
    @staticmethod
    def value(x, a, b):
        return torch.where(x > 0, x, a * torch.expm1(_at_most_zero(x)))

    @staticmethod
    def d1(x, a, b):
        return torch.where(x > 0, 1.0, _Tail(_at_most_zero(x)).times(a))

    @staticmethod
    def d2(x, a, b):
        return torch.where(x > 0, 0.0, _Tail(_at_most_zero(x)).times(a))


class celu(Formula):
    @staticmethod
    def _tail(x: Tensor, a: float) -> _Tail:
        x = _at_most_zero(_near(x, _FAR * abs(a)))
        z = x / a
        return _Tail(z, -_product_error(z, a, x) / a)

    @staticmethod
    def value(x, a, b):
        return torch.where(x > 0, x, a * torch.expm1(_at_most_zero(x) / a))

    @staticmethod
    def d1(x, a, b):
        return torch.where(x > 0, 1.0, celu._tail(x, a).times(1.0))

    @staticmethod
    def d2(x, a, b):
        return torch.where(x > 0, 0.0, celu._tail(x, a).times(1 / a))


class selu(Formula):
    @staticmethod
    def value(x, a, b):
        return torch.where(x > 0, SELU_SCALE * x, elu.value(x, SELU_SCALE * SELU_ALPHA, 0.0))

    @staticmethod
    def d1(x, a, b):
        return torch.where(x > 0, SELU_SCALE, elu.d1(x, SELU_SCALE * SELU_ALPHA, 0.0))

    @staticmethod
    def d2(x, a, b):
        return elu.d2(x, SELU_SCALE * SELU_ALPHA, 0.0)


class silu(_Gate):
    @staticmethod
    def _argument(x, a):
        return x, None, 1.0, 0.0


class swish(_Gate):
    @staticmethod
    def _argument(x, a):
        z = a * x
        return z, _product_error(x, a, z), a, 0.0


class gelu_sigmoid(_Gate):
    @staticmethod
    def _argument(x, a):
        z = _GELU_SIGMOID * x
        return z, _product_error(x, _GELU_SIGMOID, z) + x * _lost(_GELU_SIGMOID, x.dtype), _GELU_SIGMOID, 0.0


class gelu_tanh(_Gate):
    @staticmethod
    def _argument(x, a):
        x = _near(x, 100.0)
        square = x * x
        cubic = _GELU_C2 * square
        factor = _GELU_C1 + cubic
        part = factor - _GELU_C1
        lost = (_GELU_C1 - (factor - part)) + (cubic - part)  # Knuth's two-sum: either term may be the larger
        lost = lost + _product_error(square, _GELU_C2, cubic) + _GELU_C2 * _product_error(x, x, square)
        lost = lost + _lost(_GELU_C1, x.dtype) + square * _lost(_GELU_C2, x.dtype)
        z = x * factor
        error = _product_error(x, factor, z) + x * lost
        return z, error.detach(), _GELU_C1 + 3 * cubic, 6 * _GELU_C2 * x


class gelu(Formula):
    @staticmethod
    def _normal(x: Tensor) -> tuple[Tensor, Tensor, _Tail]:
        """a = |x|, R with Phi(-a) = R exp(-a^2/2), and that exponential."""
        a = -_negative_abs(_near(x, 100.0))
        square = a * a
        mills = 0.5 * torch.special.erfcx(a * math.sqrt(0.5))
        return a, mills, _Tail(-0.5 * square, -0.5 * _product_error(a, a, square))

    @staticmethod
    def value(x, a, b):
        a, mills, tail = gelu._normal(x)
        return torch.where(x < 0, tail.times(-a * mills), x * (1 - tail.times(mills)))

    @staticmethod
    def d1(x, a, b):
        a, mills, tail = gelu._normal(x)
        below = tail.times(mills - a * _INV_SQRT_2PI)
        return torch.where(x < 0, below, 1 - below)

    @staticmethod
    def d2(x, a, b):
        a, _, tail = gelu._normal(x)
        return tail.times(_INV_SQRT_2PI * (2 - a * a))


class hardsigmoid(Formula):
    @staticmethod
    def value(x, a, b):
        return (x + 3).clamp(0, 6) / 6

    @staticmethod
    def d1(x, a, b):
        return torch.where((x > -3) & (x < 3), 1 / 6, torch.zeros_like(x))


class hardswish(Formula):
    @staticmethod
    def value(x, a, b):
        return torch.where(x <= -3, 0.0, torch.where(x >= 3, x, _near(x, 3.0) * (_near(x, 3.0) + 3) / 6))

    @staticmethod
    def d1(x, a, b):
        return torch.where(x <= -3, 0.0, torch.where(x < 3, _near(x, 3.0) / 3 + 0.5, torch.ones_like(x)))

    @staticmethod
    def d2(x, a, b):
        return torch.where((x > -3) & (x < 3), 1 / 3, torch.zeros_like(x))


class hardtanh(Formula):
    @staticmethod
    def value(x, a, b):
        return torch.nn.functional.hardtanh(x, a, b)

    @staticmethod
    def d1(x, a, b):
        return torch.where((x <= a) | (x >= b), 0.0, torch.ones_like(x))


class mish(Formula):
    """x N/D: for x < 0, e = exp(x), N = e (2 + e), D = N + 2; above, with e = exp(-x), N = 1 + 2e and D = N + 2e^2."""

    @staticmethod
    def value(x, a, b):
        tail = _Tail(_negative_abs(_near(x)))
        e = tail.e
        below = tail.times(_near(x) * (2 + e) / (e * (2 + e) + 2))
        return torch.where(x < 0, below, x * ((1 + 2 * e) / (1 + 2 * e + 2 * e * e)))

    @staticmethod
    def d1(x, a, b):
        x = _near(x)
        tail = _Tail(_negative_abs(x))
        e = tail.e
        d, d_above = e * (2 + e) + 2, 1 + 2 * e + 2 * e * e
        below = tail.times(((2 + e) * d + 4 * x * (1 + e)) / d**2)
        above = ((1 + 2 * e) * d_above + 4 * tail.times(x) * e * (1 + e)) / d_above**2
        return torch.where(x < 0, below, above)

    @staticmethod
    def d2(x, a, b):
        x = _near(x)
        tail = _Tail(_negative_abs(x))
        e = tail.e
        d, d_above = e * (2 + e) + 2, 1 + 2 * e + 2 * e * e
        below = tail.times(8 * (1 + e) / d**2 + x * (4 * (1 + 2 * e) / d**2 - 16 * e * (1 + e) ** 2 / d**3))
        bend = x * (4 * (2 + e) * d_above - 16 * (1 + e) ** 2) / d_above**3
        return torch.where(x < 0, below, tail.times(e * (8 * (1 + e) / d_above**2 + bend)))


class softplus(Formula):
    @staticmethod
    def _logistic(x: Tensor, a: float) -> tuple[Tensor, _Logistic]:
        z = a * x
        x = _near(x, _FAR / abs(a)) if a else x
        near = a * x
        return z, _Logistic(near, _product_error(x, a, near))

    @staticmethod
    def value(x, a, b):
        z, s = softplus._logistic(x, a)
        e = s.tail.e
        safe = torch.where(e > 1e-6, e, 1.0)  # e^2 in the derivative of the quotient would underflow
        ratio = torch.where(e > 1e-6, torch.log1p(safe) / safe, 1 - e * (0.5 - e / 3))
        return torch.where(z > b, x, (torch.where(z < 0, 0.0, z) + s.tail.times(ratio)) / a)

    @staticmethod
    def d1(x, a, b):
        z, s = softplus._logistic(x, a)
        return torch.where(z > b, 1.0, s.sigmoid())

    @staticmethod
    def d2(x, a, b):
        z, s = softplus._logistic(x, a)
        return torch.where(z > b, 0.0, s.slope(a))


class softsign(Formula):
    @staticmethod
    def value(x, a, b):
        x = _near(x, torch.finfo(x.dtype).max)
        return x / (1 - _negative_abs(x))

    @staticmethod
    def d1(x, a, b):
        r = 1 / (1 - _negative_abs(x))
        return r * r

    @staticmethod
    def d2(x, a, b):
        r = 1 / (1 - _negative_abs(x))
        return torch.where(x < 0, 2.0, torch.where(x > 0, -2.0, x)) * r * r * r


class logsigmoid(Formula):
    @staticmethod
    def value(x, a, b):
        return -softplus.value(-x, 1.0, math.inf)

    @staticmethod
    def d1(x, a, b):
        return _Logistic(-x).sigmoid()

    @staticmethod
    def d2(x, a, b):
        return -_Logistic(x).slope()


class threshold(Formula):
    @staticmethod
    def value(x, a, b):
        return torch.where(x <= a, torch.full_like(x, b), x)

    @staticmethod
    def d1(x, a, b):
        return torch.where(x <= a, 0.0, torch.ones_like(x))


class thresholded_relu(Formula):
    @staticmethod
    def value(x, a, b):
        return threshold.value(x, a, 0.0)

    @staticmethod
    def d1(x, a, b):
        return threshold.d1(x, a, 0.0)


class softshrink(Formula):
    @staticmethod
    def value(x, a, b):
        return torch.where(x > a, x - a, torch.where(x < -a, x + a, 0 * _near(x)))

    @staticmethod
    def d1(x, a, b):
        return torch.where((x >= -a) & (x <= a), 0.0, torch.ones_like(x))


class hardshrink(Formula):
    @staticmethod
    def value(x, a, b):
        return torch.where((x >= -a) & (x <= a), 0.0, x)

    @staticmethod
    def d1(x, a, b):
        return softshrink.d1(x, a, b)


class tanhshrink(Formula):
    """Near zero (x cosh x - sinh x) / cosh x, whose numerator is the sum of 2k/(2k+1)! x^(2k+1): nothing cancels."""

    @staticmethod
    def value(x, a, b):
        near = _near(x, 1.5)
        square = near * near
        series = torch.zeros_like(near)
        for k in range(15, 0, -1):
            series = series * square + 2 * k / math.factorial(2 * k + 1)
        # square * series first: x^3 alone would pass through the subnormal numbers before its last factor
        return torch.where((x > -1.5) & (x < 1.5), near * (square * series / torch.cosh(near)), x - _tanh(x))

    @staticmethod
    def d1(x, a, b):
        return _tanh(x) * _tanh(x)

    @staticmethod
    def d2(x, a, b):
        return _d_tanh(x, 2 * _tanh(x))


def _leaves(base: type[Formula]) -> list[type[Formula]]:
    return [leaf for child in base.__subclasses__() for leaf in [child, *_leaves(child)]]


FORMULAS: dict[str, Any] = {leaf.__name__: leaf for leaf in _leaves(Formula) if not leaf.__name__.startswith("_")}


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type in which `x` is computed: float32 for 16-bit types, float64 for float32 where that costs only time.

    Under a compiler float32 stays float32: Inductor fuses the formula into its neighbours, and float64 is slow on GPUs.
    """
    if x.dtype in (torch.float16, torch.bfloat16):
        return torch.float32
    if x.dtype == torch.float32 and x.device.type in ("cpu", "cuda") and not torch.compiler.is_compiling():
        return torch.float64
    return x.dtype


def evaluate(name: str, order: str, x: Tensor, a: float, b: float) -> Tensor:
    """`order` ("value", "d1" or "d2") of the activation called `name`, in `x`'s type; differentiable to any order."""
    return getattr(FORMULAS[name], order)(x.to(compute_dtype(x)), *rounded(x, a, b)).to(x.dtype)


def times(
    grad: Tensor, name: str, order: str, x: Tensor, a: float, b: float, also: Tensor | float = 1.0
) -> Tensor:
    """grad also f(x), f being `order` of the activation, multiplied before the result is rounded to `x`'s type."""
    wide = compute_dtype(x)
    if isinstance(also, Tensor):
        also = also.to(wide)
    slope = getattr(FORMULAS[name], order)(x.to(wide), *rounded(x, a, b))
    product = grad.to(wide) * also * slope
    if activation(name).masks:
        product = torch.where(slope == 0, 0.0, product)
    return product.to(x.dtype)


def rounded(x: Tensor, a: float, b: float) -> tuple[float, float]:
    """The constants as PyTorch takes them: in float32 unless the tensor is float64."""
    if x.dtype == torch.float64:
        return a, b
    return float(torch.tensor(a, dtype=torch.float32)), float(torch.tensor(b, dtype=torch.float32))
