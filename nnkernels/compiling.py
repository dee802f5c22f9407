"""Compiled calls over the whole range of a type: what tests, docs/compiled.md and `nnkernels check` measure alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import accuracy
from .accuracy import COMPILED, constants_of, errors, truth_of
from .registry import Activation

_NEAR_ROOT = 0.5
_ROOT_FLOOR = 2.0**-6
_FLOORS = {torch.float32: 2.0**-120, torch.float64: 2.0**-1016}
"""Smaller results count as this: a gradient that subnormal numbers entered is multiplied once more."""


@dataclass(frozen=True)
class Worst:
    """The greatest error in ulp, and the input at which it occurs."""

    ulp: float
    at: float

    def __str__(self) -> str:
        return f"{self.ulp:.2g} at {self.at:.4g}"


@dataclass(frozen=True)
class Found:
    """The worst errors of a compiled value, of its gradient, and of the latter near its roots, if it has any."""

    dtype: torch.dtype
    value: Worst
    d1: Worst
    near_root: Worst | None

    @property
    def ok(self) -> bool:
        value, d1, near_root = COMPILED[self.dtype]
        near = self.near_root is None or self.near_root.ulp <= near_root
        return self.value.ulp <= value and self.d1.ulp <= d1 and near

    def __str__(self) -> str:
        near = "" if self.near_root is None else f", near its root {self.near_root}"
        return f"value {self.value}, derivative {self.d1}{near} (ulp)"


def inputs(dtype: torch.dtype) -> Tensor:
    """`accuracy.inputs`, cut to a length that no vector divides, so that a loop's remainder is computed as well."""
    x = accuracy.inputs(dtype)
    return x if x.numel() % 16 else torch.cat([x, x[:5]])


def run(functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The value and the gradient of each function at `x`, from one compiled call of them all."""

    def every(*leaves: Tensor) -> list[Tensor]:
        return [function(leaf) for function, leaf in zip(functions, leaves, strict=True)]

    leaves = [x.clone().requires_grad_() for _ in functions]
    ys = torch.compile(every, fullgraph=True)(*leaves)
    gradients = torch.autograd.grad(ys, leaves, [torch.ones_like(y) for y in ys])
    return [(y.detach(), gradient) for y, gradient in zip(ys, gradients, strict=True)]


def judge(row: Activation, x: Tensor, y: Tensor, d1: Tensor) -> Found:
    """The worst errors of a value and a derivative of `row` at `x`, with its default constants."""
    a, b = constants_of(row)
    floor = _FLOORS.get(x.dtype, 0.0)
    slope = truth_of(row, "d1", x, a, b)
    near = accuracy.near_root(x.double(), slope, _NEAR_ROOT)
    off = errors(d1, slope, torch.where(near, _ROOT_FLOOR, torch.tensor(floor, dtype=torch.float64, device=x.device)))
    off = torch.where(x.isnan(), 0.0, off)  # whether a derivative there is NaN or a piece's, torch has it either way
    return Found(
        x.dtype,
        _worst(errors(y, truth_of(row, "value", x, a, b), floor), x),
        _worst(torch.where(near, 0.0, off), x),
        _worst(torch.where(near, off, 0.0), x) if near.any() else None,
    )


def _worst(off: Tensor, x: Tensor) -> Worst:
    at = int(off.argmax())
    return Worst(off[at].item(), x[at].item())
