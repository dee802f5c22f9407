"""The smooth activations that are another one, scaled or under a root."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Formula, Tail, near, negative_abs, product, product_error, rounded
from .smooth import slope_of_tanh, tanh_of

_LINEAR = 1e-20  # below it tanh(z) is z, whose quotient may have been subnormal
_SERIES = 1e-3  # below it seven terms of log(1 + e) / e are exact, and the quotient's derivatives might overflow


class softcap(Formula):
    @staticmethod
    def _argument(x: Tensor, a: float) -> tuple[Tensor, Tensor]:
        """x / a and what rounding took from it; x held where tanh is 1."""
        x = near(x, 2000 * a)
        z = rounded(x / a)
        back = product(a, z.detach())
        return z, ((x.detach() - back) - product_error(z, a, back)) / a

    @staticmethod
    def value(x, a, b):
        z, error = softcap._argument(x, a)
        return torch.where(z.abs() < _LINEAR, x, a * tanh_of(z, error))

    @staticmethod
    def d1(x, a, b):
        z, error = softcap._argument(x, a)
        return slope_of_tanh(z, error=error)

    @staticmethod
    def d2(x, a, b):
        z, error = softcap._argument(x, a)
        return slope_of_tanh(z, -2 / a * tanh_of(z), error)


class sqrtsoftplus(Formula):
    """Below zero e^(x/2) sqrt(log(1 + e) / e), e = e^x: the logarithm itself is 0 long before its root is."""

    @staticmethod
    def _parts(x: Tensor) -> tuple[Tail, Tensor, Tensor]:
        """e^(-|x|/2), its square e, and log(1 + e) / e below zero, log(1 + e^x) above."""
        half = Tail(0.5 * negative_abs(near(x)))
        e = half.e * half.e
        small = e < _SERIES
        tiny, safe = torch.where(small, e, 0.0), torch.where(small, 1.0, e)
        series = torch.zeros_like(e)
        for n in range(7, 0, -1):
            series = 1 / n - tiny * series
        ratio = torch.where(small, series, torch.log1p(safe) / safe)
        return half, e, torch.where(x < 0, ratio, torch.where(x < 0, 0.0, x) + e * ratio)

    @staticmethod
    def value(x, a, b):
        half, _, square = sqrtsoftplus._parts(x)
        root = torch.sqrt(square)
        return torch.where(x < 0, half.times(root), root)

    @staticmethod
    def d1(x, a, b):
        half, e, square = sqrtsoftplus._parts(x)
        slope = 1 / (2 * torch.sqrt(square) * (1 + e))
        return torch.where(x < 0, half.times(slope), slope)

    @staticmethod
    def d2(x, a, b):
        half, e, square = sqrtsoftplus._parts(x)
        bracket = 2 * near(square) * torch.where(x < 0, 1.0, e) - 1
        bend = bracket / (4 * torch.sqrt(square) * (1 + e).square()) / square
        return torch.where(x < 0, half.times(bend), bend)
