"""The exponential units: straight above zero, an exponential that saturates below."""

from __future__ import annotations

import torch
from torch import Tensor

from ..catalogue.elementwise import SELU_ALPHA, SELU_SCALE
from .base import FAR, Formula, Tail, at_most_zero, expm1, near, product_error, rounded


class elu(Formula):
    @staticmethod
    def value(x, a, b):
        return torch.where(x > 0, x, a * expm1(at_most_zero(x)))

    @staticmethod
    def d1(x, a, b):
        return torch.where(x > 0, 1.0, Tail(at_most_zero(x)).times(a))

    @staticmethod
    def d2(x, a, b):
        return torch.where(x > 0, 0.0, Tail(at_most_zero(x)).times(a))

    @staticmethod
    def from_output(grad, y, a):
        return torch.ops.aten.elu_backward(grad, a, 1.0, 1.0, True, y)


class celu(Formula):
    @staticmethod
    def _argument(x: Tensor, a: float) -> tuple[Tensor, Tensor | None]:
        """x / a and what rounding took from it, for x <= 0."""
        x = at_most_zero(near(x, FAR * abs(a)))
        z = rounded(x / a)
        return z, None if a == 1 else -product_error(z, a, x) / a

    @staticmethod
    def value(x, a, b):
        z, error = celu._argument(x, a)
        below = a * expm1(z if a > 0 else torch.where(z > 1, 1.0, z), error)
        if a < 0:  # z grows as x falls, and exp(z) may be infinite before a exp(z) is
            below = torch.where(z > 1, Tail(z, error).times(a) - a, below)
        # Where z may be subnormal x is the value, but only two terms of its series have the second derivative.
        is_below = x < -abs(a) * torch.finfo(x.dtype).eps / 4
        near_zero = torch.where((x > 0) | is_below, 0.0, x)
        return torch.where(x > 0, x, torch.where(is_below, below, near_zero * (1 + 0.5 * near_zero / a)))

    @staticmethod
    def d1(x, a, b):
        return torch.where(x > 0, 1.0, Tail(*celu._argument(x, a)).times(1.0))

    @staticmethod
    def d2(x, a, b):
        return torch.where(x > 0, 0.0, Tail(*celu._argument(x, a)).times(1 / a))

    @staticmethod
    def from_output(grad, y, a):
        return torch.ops.aten.elu_backward(grad, a, 1.0, 1 / a, True, y)


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

    @staticmethod
    def from_output(grad, y, a):
        return torch.ops.aten.elu_backward(grad, SELU_ALPHA, SELU_SCALE, 1.0, True, y)
