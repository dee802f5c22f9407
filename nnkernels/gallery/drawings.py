"""What the gallery draws of each row: curves from the library's own functions, their slopes from autograd."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .. import accuracy, functional
from ..registry import Activation, Row

SAMPLES = 2401
_SHARPEST = 8.0
"""The steepest change of slope per unit of x that still counts as smooth."""


@dataclass(frozen=True)
class Curve:
    """A function's values and slopes at `x`, NaN between the two sides of a jump.

    Attributes:
        x, value, slope: one number for each sample.
        knees: the points (x, y) at which the slope jumps but not the value.
        jumps: the points (x, low end, high end) at which the value jumps.
    """

    x: Tensor
    value: Tensor
    slope: Tensor
    knees: tuple[tuple[float, float], ...] = ()
    jumps: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class Drawing:
    """One row's picture.

    Attributes:
        curve: the function, with its slope.
        note: which constants or surroundings it is drawn with.
        across, up: what the axes show.
        helpers: thin lines for orientation, such as the pieces of a maximum.
        band: the lower and upper edges of a random output.
    """

    curve: Curve
    note: str = ""
    across: str = "x"
    up: str = "f(x)"
    helpers: tuple[Curve, ...] = ()
    band: tuple[Curve, Curve] | None = None


def trace(function: Callable[[Tensor], Tensor], low: float = -4.0, high: float = 4.0) -> Curve:
    """Samples `function`, which maps each number for itself, finds its knees and jumps, and parts the curves there."""
    x = torch.linspace(low, high, SAMPLES, dtype=torch.float64, device="cpu", requires_grad=True)
    value = function(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    x, value, slope = x.detach(), value.detach(), slope.detach()
    step = (high - low) / (SAMPLES - 1)
    jumps = (value.diff() - (slope[1:] + slope[:-1]) / 2 * step).abs() > 0.05
    knees = (slope.diff().abs() > _SHARPEST * step) & ~jumps
    # A knee right at a sample parts the slope before or behind it: one of the two sides holds.
    return Curve(
        x,
        _parted(value, jumps),
        _parted(slope, jumps | knees),
        tuple((x[i].item(), value[i].item()) for i in knees.nonzero().flatten().tolist()),
        tuple((x[i].item(), value[i].item(), value[i + 1].item()) for i in jumps.nonzero().flatten().tolist()),
    )


def _parted(curve: Tensor, between: Tensor) -> Tensor:
    parted = curve.clone()
    parted[:-1][between] = float("nan")
    return parted


def constants_of(row: Activation) -> tuple[float, ...]:
    """The constants with which a row is drawn."""
    return row.shown or accuracy.constants_of(row)[: len(row.parameters)]


def required_of(row: Row) -> tuple[float, ...]:
    """The constants of a row that lacks defaults; of other rows none, so that their defaults hold."""
    if isinstance(row, Activation) and any(map(math.isnan, row.parameters.values())):
        return constants_of(row)
    return ()


def drawing_of(row: Row) -> Drawing:
    """What is drawn of `row`.

    Raises:
        NotImplementedError: the row is no function of one number, and has no `picture` of its own.
    """
    if (told := row.picture) is not None:
        curve, *edges = (trace(partial(one, functional)) for one in (told.curve, *told.band))
        band = (edges[0], edges[1]) if edges else None
        return Drawing(curve, told.note, told.across, told.up, tuple(map(trace, told.helpers)), band)
    if not isinstance(row, Activation):
        raise NotImplementedError(
            f"the gallery does not know how to draw {row.name!r}, a {type(row).__name__} row: "
            "give its row in the catalogue a picture"
        )
    constants = constants_of(row)
    note = ", ".join(f"{name} = {value:g}" for name, value in zip(row.parameters, constants, strict=True))
    function = functional.function_of(row)
    return Drawing(trace(lambda x: function(x, *constants), *row.window), note)
