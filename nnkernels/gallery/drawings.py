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


def _softmax_like(name: str) -> Drawing:
    """How one output depends on its own logit, the other two being 0 and 1."""

    def first(x: Tensor) -> Tensor:
        return getattr(functional, name)(torch.stack([x, torch.zeros_like(x), torch.ones_like(x)]), dim=0)[0]

    return Drawing(trace(first), "the other logits are 0 and 1", "logit", "its output")


def _gated(name: str) -> Drawing:
    """How the product depends on the gate where what it gates is 1."""

    def product(x: Tensor) -> Tensor:
        if name == "glu":
            return functional.glu(torch.stack([torch.ones_like(x), x]), dim=0)[0]
        return getattr(functional, name)(x, up=torch.ones_like(x))

    return Drawing(trace(product), "what it gates is 1", "gate", "product")


def _prelu() -> Drawing:
    weight = torch.full((1,), 0.25, dtype=torch.float64, device="cpu")
    return Drawing(trace(lambda x: functional.prelu(x, weight)), "weight = 0.25, where training starts")


def _rrelu() -> Drawing:
    lower, upper = trace(lambda x: functional.leaky_relu(x, 1 / 8)), trace(lambda x: functional.leaky_relu(x, 1 / 3))
    middle = trace(lambda x: functional.rrelu(x, 1 / 8, 1 / 3, training=False))
    return Drawing(middle, "line: evaluation; band: training, 1/8 to 1/3", band=(lower, upper))


def _apl() -> Drawing:
    slopes = torch.tensor([[0.6], [-0.5]], dtype=torch.float64, device="cpu")
    offsets = torch.tensor([[-2.0], [2.0]], dtype=torch.float64, device="cpu")
    curve = trace(lambda x: functional.apl(x.unsqueeze(1), slopes, offsets).squeeze(1))
    return Drawing(curve, "slopes 0.6 and -0.5, offsets -2 and 2")


def _maxout() -> Drawing:
    lines = (lambda x: -0.8 * x - 2, lambda x: 0.2 * x, lambda x: 1.2 * x - 1.5)
    curve = trace(lambda x: functional.maxout(torch.stack([line(x) for line in lines], dim=1), 3, dim=1).squeeze(1))
    return Drawing(curve, "of three lines", helpers=tuple(map(trace, lines)))


DRAWN: dict[str, Callable[[], Drawing]] = {
    "prelu": _prelu,
    "apl": _apl,
    "rrelu": _rrelu,
    "maxout": _maxout,
    **{name: partial(_softmax_like, name) for name in ("softmax", "log_softmax", "softmin")},
    **{name: partial(_gated, name) for name in ("glu", "swiglu", "geglu", "reglu")},
}
"""How the rows are drawn that are no function of one number. Their functions are looked up when they are drawn."""

SHOWN = {"leaky_relu": (0.1,), "celu": (2.0,), "swish": (2.0,), "threshold": (1.0, -1.0)}
"""Constants that show more than the defaults do, or where there are none."""

WINDOWS = {"relu6": (-2.0, 8.0)}


def constants_of(row: Activation) -> tuple[float, ...]:
    """The constants with which a row is drawn."""
    return SHOWN.get(row.name, accuracy.constants_of(row)[: len(row.parameters)])


def required_of(row: Row) -> tuple[float, ...]:
    """The constants of a row that lacks defaults; of other rows none, so that their defaults hold."""
    if isinstance(row, Activation) and any(map(math.isnan, row.parameters.values())):
        return constants_of(row)
    return ()


def drawing_of(row: Row) -> Drawing:
    """What is drawn of `row`.

    Raises:
        NotImplementedError: the row is no function of one number, and `DRAWN` does not say how to draw it.
    """
    if row.name in DRAWN:
        return DRAWN[row.name]()
    if not isinstance(row, Activation):
        raise NotImplementedError(
            f"the gallery does not know how to draw {row.name!r}, a {type(row).__name__} row: "
            "add it to DRAWN in nnkernels/gallery/drawings.py"
        )
    constants = constants_of(row)
    note = ", ".join(f"{name} = {value:g}" for name, value in zip(row.parameters, constants, strict=True))
    function = functional.function_of(row)
    return Drawing(trace(lambda x: function(x, *constants), *WINDOWS.get(row.name, (-4.0, 4.0))), note)
