"""How far a result is from the truth, in units in the last place (ulp): what `check`, tests and benchmarks share.

The truth is the reference in float64, which the tests hold against mpmath.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from . import dispatch, reference
from .registry import Activation
from .samples import Sample

LIMITS = {torch.float64: 64.0, torch.float32: 4.0, torch.bfloat16: 1.0, torch.float16: 1.0}
"""What is promised, in ulp; for 16-bit types counted from the correctly rounded value. 64 ulp is 1.4e-14 at most."""

_BITS = {torch.float64: 52, torch.float32: 23, torch.bfloat16: 7, torch.float16: 10}
_FLOOR_OF_REGISTERED = 2.0**-6


@dataclass(frozen=True)
class Accuracy:
    """The worst error of value and derivative, in ulp, and the inputs at which they occur.

    `slack` times the promised limit is allowed for the derivative: more than 1 where it is taken from a rounded output;
    `value_slack` times for the value.
    """

    dtype: torch.dtype
    value: float
    value_at: float
    d1: float
    d1_at: float
    slack: float = 1.0
    value_slack: float = 1.0

    @property
    def ok(self) -> bool:
        limit = LIMITS[self.dtype]
        return self.value <= self.value_slack * limit and self.d1 <= self.slack * limit

    def __str__(self) -> str:
        return f"value {self.value:.2f} ulp (at {self.value_at!r}), derivative {self.d1:.2f} ulp (at {self.d1_at!r})"


def constants_of(row: Activation) -> tuple[float, float]:
    """The row's default constants, padded to two; 0.5 and 0.25 where the caller has to give them."""
    given = iter((0.5, 0.25))
    constants = [next(given) if math.isnan(default) else default for default in row.parameters.values()]
    a, b = [*constants, 0.0, 0.0][:2]
    return a, b


@cache
def inputs(dtype: torch.dtype) -> Tensor:
    """Every value of a 16-bit type; of the others, bit patterns over the whole range and a dense grid near 0."""
    if dtype in (torch.bfloat16, torch.float16):
        return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    near = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    tails = torch.linspace(-120, 120, 24_001, dtype=torch.float64)
    special = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan], dtype=dtype)
    if dtype == torch.float32:
        patterns = torch.arange(-(2**31), 2**31, 32_771, dtype=torch.int64).to(torch.int32).view(dtype)
    else:
        patterns = torch.arange(-(2**15), 2**15, dtype=torch.int64).mul(2**48 + 2**33 + 1).view(dtype)
    return torch.cat([patterns, near.to(dtype), tails.to(dtype), special])


def ulp(truth: Tensor, dtype: torch.dtype, floor: Tensor | float = 0.0) -> Tensor:
    """The spacing of `dtype`'s numbers at |truth|, or at `floor` where that is greater."""
    info = torch.finfo(dtype)
    # The largest number's spacing also serves what lies beyond it.
    size = truth.abs().clamp(max=info.max).maximum(torch.as_tensor(floor, dtype=torch.float64, device=truth.device))
    exponent = torch.frexp(size.clamp(min=info.tiny))[1] - 1
    return torch.ldexp(torch.ones_like(truth), exponent - _BITS[dtype])


def errors(actual: Tensor, truth: Tensor, floor: Tensor | float = 0.0) -> Tensor:
    """|actual - truth| in ulp of `actual`'s type, NaN and infinities counting as 0 where they agree and inf elsewhere.

    16-bit results are compared with the correctly rounded truth, so that a half way case is not an error of a half.
    """
    dtype = actual.dtype
    exact = truth.to(dtype)
    if dtype in (torch.bfloat16, torch.float16):
        truth = exact.to(torch.float64)
    wide = actual.to(torch.float64)
    off = (wide - truth).abs() / ulp(truth, dtype, floor)
    settled = ~(wide.isfinite() & exact.isfinite())
    agrees = (wide == exact) | (wide.isnan() & truth.isnan())
    # A finite result just below overflow, or the other way round, is one step away.
    edge = (wide.abs().maximum(truth.abs()) >= torch.finfo(dtype).max) & (wide.sign() == truth.sign()) & (off <= 1)
    return torch.where(settled, torch.where(agrees | edge, 0.0, math.inf), off)


def near_root(x: Tensor, derivative: Tensor, distance: float) -> Tensor:
    """Where `x` is within `distance` of a root of the derivative, of which the values at `x` are given."""
    order = x.argsort()
    order = order[derivative[order] != 0]
    xs, slopes = x[order], derivative[order]
    crosses = (slopes[1:].sign() * slopes[:-1].sign() < 0).nonzero().flatten()
    near = torch.zeros_like(x, dtype=torch.bool)
    for root in xs[crosses]:
        near |= (x - root).abs() < distance
    return near


def truth_of(row: Activation, order: str, x: Tensor, a: float, b: float) -> Tensor:
    """The row's value or derivative at `x` in float64, for the constants as `x`'s type takes them."""
    formula = getattr(reference.FORMULAS[row.name], order)
    return formula(x.to(torch.float64), *reference.rounded(x, a, b))


def measure_sample(sample: Sample, dtype: torch.dtype, device: str = "cpu") -> Accuracy:
    """The worst errors of a sample's value and gradients on the backend in use, in ulp.

    Where a number is smaller than their root mean square, ulp of that count: sums and products cancel.
    """
    inputs = tuple(tensor.requires_grad_() for tensor in sample.inputs(dtype, device))
    wide = tuple(tensor.detach().double().requires_grad_() for tensor in inputs)
    y = sample.call(*inputs)
    with dispatch.backend("reference"):
        exact = sample.call(*wide)
    grad = torch.sin(2.4 * torch.arange(y.numel(), device=device)).to(dtype).view_as(y)
    pairs = [
        (y, exact),
        *zip(torch.autograd.grad(y, inputs, grad), torch.autograd.grad(exact, wide, grad.double()), strict=True),
    ]
    worst = [errors(got.detach(), truth.detach(), truth.detach().square().mean().sqrt()).max() for got, truth in pairs]
    return Accuracy(dtype, worst[0].item(), math.nan, max(worst[1:]).item(), math.nan, sample.slack)


def measure(row: Activation, backend: dispatch.Backend, dtype: torch.dtype, device: str = "cpu") -> Accuracy:
    """The worst errors of `backend` over `inputs(dtype)`, with the row's default constants."""
    a, b = constants_of(row)
    x = inputs(dtype).to(device)
    value = backend.forward(row.name, x, a, b)
    d1 = backend.backward(row.name, torch.ones_like(x), x, a, b)
    return judge(row, x, value, d1)


def judge(row: Activation, x: Tensor, value: Tensor, d1: Tensor) -> Accuracy:
    """The worst errors of `value` and `d1`, the row's at `x` with its default constants."""
    a, b = constants_of(row)
    # Where the derivative of a user's own formula has its roots is not known, and no formula has digits left there.
    floor = 0.0 if row.reference is None else _FLOOR_OF_REGISTERED
    off_value, off_d1 = errors(value, truth_of(row, "value", x, a, b)), errors(d1, truth_of(row, "d1", x, a, b), floor)
    worst, worst_d1 = int(off_value.argmax()), int(off_d1.argmax())
    return Accuracy(x.dtype, off_value[worst].item(), x[worst].item(), off_d1[worst_d1].item(), x[worst_d1].item())


class Promise(NamedTuple):
    """Limits in ulp: of the value, of the derivative, and in ulp of 2^-6 of the derivative within 1/2 of its root."""

    value: float
    d1: float
    near_root: float


COMPILED = {
    torch.float64: Promise(64.0, 64.0, 64.0),
    torch.float32: Promise(8.0, 16.0, 128.0),
    torch.bfloat16: Promise(1.0, 1.0, 1.0),
    torch.float16: Promise(1.0, 1.0, 1.0),
}
"""What is promised of calls under torch.compile, which no kernel serves; 128 ulp of 2^-6 in float32 are 2^-22."""
