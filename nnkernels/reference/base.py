"""What the formulas share: exponentials that keep their digits, and the shape of a formula."""

from __future__ import annotations

import math

import torch
from torch import Tensor

FAR = 2000.0
"""exp(-FAR) is 0 in every type."""


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type in which `x` is computed: float32 for 16-bit types, float64 for float32 where that costs only time.

    Under a compiler float32 stays float32: Inductor fuses the formula into its neighbours, and float64 is slow on GPUs.
    """
    if x.dtype in (torch.float16, torch.bfloat16):
        return torch.float32
    if x.dtype == torch.float32 and x.device.type in ("cpu", "cuda") and not torch.compiler.is_compiling():
        return torch.float64
    return x.dtype


def negative_abs(x: Tensor) -> Tensor:
    return torch.where(x < 0, x, negated(x))


def negated(x: Tensor) -> Tensor:
    """-x, of zeros too: Inductor writes a negation as 0 - x on GPUs, which is +0 for both zeros."""
    return -1.0 * x


def near(x: Tensor, bound: float = FAR) -> Tensor:
    """`x`, bounded where the result no longer depends on it, so that no infinity meets a zero.

    Not by `clamp`, whose derivative at NaN is 0. Under a compiler not by choices either: Inductor writes an expression
    out again at each of its uses, of which they have three, and a formula deep in such numbers took half a minute.
    """
    if torch.compiler.is_compiling():
        low, high = (torch.full((), end, dtype=x.dtype, device=x.device) for end in (-bound, bound))
        return torch.minimum(torch.maximum(x, low), high)
    return torch.where(x > bound, bound, torch.where(x < -bound, -bound, x))


def at_most_zero(x: Tensor) -> Tensor:
    return torch.where(x > 0, 0.0, x)


def product(a: Tensor | float, b: Tensor) -> Tensor:
    """a b, rounded before anything is added to it, so that `product_error` is what it lacks."""
    return rounded(a * b)


def rounded(x: Tensor) -> Tensor:
    """A product, or a quotient by a number, as what is computed of it next finds it.

    Inductor's kernels for GPUs contract a product into the sum that takes it, unless a choice lies between the two, and
    divide by a number by multiplying. Its C++ does neither, and is spared the choice, which uses the number twice.
    """
    if torch.compiler.is_compiling() and x.device.type != "cpu":
        return torch.where(x > torch.finfo(x.dtype).max, math.inf, x)
    return x


def product_error(a: Tensor, b: Tensor | float, product: Tensor) -> Tensor:
    """a b - product (Dekker 1971): what rounding took away. It carries no derivative."""
    a, product = a.detach(), product.detach()
    b = b.detach() if isinstance(b, Tensor) else torch.full_like(a, b)
    splitter = float(2**27 + 1 if a.dtype == torch.float64 else 2**12 + 1)

    def split(v: Tensor) -> tuple[Tensor, Tensor]:
        high = splitter * v - (splitter * v - v)
        return high, v - high

    (a1, a2), (b1, b2) = split(a), split(b)
    return ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


class Tail:
    """e = exp(z + error), z <= 0, as the square of `root`; `times(v)` is v e, exact down to the subnormal numbers."""

    def __init__(self, z: Tensor, error: Tensor | None = None) -> None:
        self.root = torch.exp(0.5 * z)
        self.more = None if error is None else 1 + error
        self.e = self.times(1.0)

    def times(self, v: Tensor | float) -> Tensor:
        if self.more is not None:
            v = self.more * v
        return (self.root * v) * self.root


_TERMS = {torch.float32: 10, torch.float64: 18}
"""So many terms of exp's series leave an error below a last bit for |z| < log(2), one less, its derivative, as well."""


def expm1(z: Tensor, error: Tensor | None = None) -> Tensor:
    """exp(z + error) - 1, near zero by its series.

    `torch.expm1` would do but for what autograd takes for its derivative, the result plus 1: for z = -20 that is 0.
    """
    small = z.abs() < math.log(2)
    near = torch.where(small, z, 0.0)
    return torch.where(small, near * _series(near, 1), Tail(z, error).e - 1)


def exp_less_two_terms(z: Tensor) -> Tensor:
    """exp(z) - 1 - z for z <= 0, near zero by its series; z is held where its exponential is 0."""
    small = z > -math.log(2)
    held = torch.where(small, z, 0.0)
    return torch.where(small, held * held * _series(held, 2), expm1(z) - near(z))


def _series(z: Tensor, less: int) -> Tensor:
    """(exp(z) - its first `less` terms) / z^less, for |z| < log(2)."""
    series = torch.zeros_like(z)
    for n in range(_TERMS[z.dtype], 0, -1):
        series = series * z + 1 / math.factorial(n + less - 1)
    return series


class Logistic:
    """sigmoid(z) and its derivatives, z = x's scaled copy with rounding error `error`."""

    def __init__(self, z: Tensor, error: Tensor | None = None) -> None:
        self.positive = z >= 0
        if error is not None:
            error = torch.where(z < 0, error, -error)
        self.tail = Tail(negative_abs(z), error)
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


class Formula:
    """One activation: its value and two derivatives at `x`, for the constants `a` and `b`.

    Where the row says `output_tells`, `from_output(grad, y, a)` is grad f'(x), told y = f(x), in `grad`'s type.
    """

    @staticmethod
    def value(x: Tensor, a: float, b: float) -> Tensor:
        raise TypeError("a formula has to define its value")

    @staticmethod
    def d1(x: Tensor, a: float, b: float) -> Tensor:
        raise TypeError("a formula has to define its first derivative")

    @staticmethod
    def d2(x: Tensor, a: float, b: float) -> Tensor:
        return torch.zeros_like(x)
