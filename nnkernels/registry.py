"""What a row of the catalogue says, and how to find one. The rows themselves stand in `catalogue/`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

REQUIRED = float("nan")
"""The default of a parameter that the caller has to give, as `threshold` and `value` of `torch.nn.Threshold`."""


@dataclass(frozen=True, eq=False)
class Row:
    """What the catalogue tells of an activation.

    Attributes:
        name: the function's name in `nnkernels.functional`, and the row's name in every backend.
        module: the class's name in `nnkernels.nn`; PyTorch's where PyTorch has one.
        formula: the value, as text.
        derivative: the first derivative, as text.
        range: the set of values.
        source: who described it, and when.
        good_for: what it is used for.
        drawback: its known weakness.
    """

    name: str
    module: str
    formula: str
    derivative: str
    range: str
    source: str
    good_for: str
    drawback: str

    def __reduce__(self) -> tuple[Callable[[str], Row], tuple[str]]:
        return activation, (self.name,)


@dataclass(frozen=True, eq=False)
class Activation(Row):
    """An activation function of a single tensor and at most two constants, element by element.

    Attributes:
        parameters: the constants' names and defaults, in the order of the signature.
        inplace: whether the function takes `inplace=`, as PyTorch's does.
        keeps_output: told the parameters, whether the derivative at the output equals the derivative at the input, so
            that backward may keep the output, which the next layer often keeps as well.
        slopes: told the parameters, the two values of the derivative, left and right of its first knee, of which
            backward may keep one bit; None for the others.
        refuses: told the parameters, the exception that torch raises for them, or None.
        masks: whether the derivative is made of pieces, so that the gradient is 0 where the derivative is, also if what
            comes from above is infinite or NaN; a smooth derivative that underflowed to 0 hides neither.
        float32_under_cuda_autocast: whether PyTorch's CUDA autocast runs it in float32.
        reference: the value in torch operations, told the tensor and the parameters, of an activation that a user
            registered; the others' stand in `reference/`.
        variant: the value of `approximate` under which `functional.gelu` means this row.
    """

    parameters: Mapping[str, float] = field(default_factory=dict)
    inplace: bool = True
    keeps_output: Callable[[float, float], bool] = lambda a, b: False
    slopes: Callable[[float, float], tuple[float, float]] | None = None
    refuses: Callable[[float, float], Exception | None] | None = None
    masks: bool = False
    float32_under_cuda_autocast: bool = False
    reference: Callable[..., Tensor] | None = None
    variant: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))


@dataclass(frozen=True, eq=False)
class Learned(Row):
    """An activation with parameters of its own, that training changes."""


@dataclass(frozen=True, eq=False)
class Random(Row):
    """An activation that draws random numbers in training."""


@dataclass(frozen=True, eq=False)
class Reducing(Row):
    """An activation whose elements depend on each other along a dimension."""


@dataclass(frozen=True, eq=False)
class Gated(Row):
    """A product of two halves of a tensor, or of two tensors, one of them through an activation."""


_ROWS: dict[str, Row] = {}

Kind = TypeVar("Kind", bound=Row)


def add(row: Row) -> None:
    """Puts `row` into the catalogue."""
    _ROWS[row.name] = row


def activations() -> tuple[str, ...]:
    """The names in the catalogue.

    Example:
        >>> import nnkernels
        >>> "mish" in nnkernels.activations()
        True
    """
    return tuple(_ROWS)


def activation(name: str) -> Row:
    """The catalogue's row called `name`.

    Raises:
        ValueError: there is no such row; the message lists the known names.

    Example:
        >>> import nnkernels
        >>> nnkernels.activation("mish").formula
        'x tanh(softplus(x))'
    """
    try:
        return _ROWS[name]
    except KeyError:
        close = difflib.get_close_matches(str(name), _ROWS, n=1)
        hint = f"; did you mean {close[0]!r}" if close else ""
        raise ValueError(f"unknown activation {name!r}{hint}; the known ones are: {', '.join(_ROWS)}") from None


IDENTITY = Activation(
    "identity",
    "Identity",
    formula="x",
    derivative="1",
    range="(-inf, inf)",
    source="none",
    good_for="fused forms without an activation",
    drawback="no activation: it is no row of the catalogue",
    inplace=False,
    keeps_output=lambda a, b: True,
)


def elementwise(name: str) -> Activation:
    """The stateless row called `name`; "identity", which fused forms take as well, is in no catalogue.

    Raises:
        ValueError: there is no such row, or it has parameters, randomness or neighbours of its own.
    """
    if name == IDENTITY.name:
        return IDENTITY
    row = activation(name)
    if not isinstance(row, Activation):
        known = ", ".join(one.name for one in catalogue(Activation))
        raise ValueError(f"{name!r} is not a stateless elementwise activation; those are: {known}")
    return row


def catalogue(kind: type[Kind] = Row) -> tuple[Kind, ...]:  # type: ignore[assignment]
    """The rows of one kind (by default of all), in the order of the README's table."""
    return tuple(row for row in _ROWS.values() if isinstance(row, kind))
