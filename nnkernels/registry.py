"""What a row of the catalogue says, and how to find one. The rows themselves stand in `catalogue/`.

Rows import no torch, so that the command line answers without it. What they would call of it they are told: `F` is
`nnkernels.functional`, or `torch.nn.functional` for a peer.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from torch import Tensor

REQUIRED = float("nan")
"""The default of a parameter that the caller has to give, as `threshold` and `value` of `torch.nn.Threshold`."""


@dataclass(frozen=True)
class Example:
    """One call of a row that is no function of one number, away from knees and ties, where no derivative is unique.

    Attributes:
        call: told F and the tensors, the value; every tensor has a gradient.
        shapes: of the tensors.
        slack: how many times the promised limit the gradients may be off, where they come from numbers that have been
            rounded: backward of softmax and softmin keeps the output alone.
    """

    call: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]
    slack: float = 1.0


@dataclass(frozen=True)
class Moment:
    """The second moment of a row at normal inputs, from which its initial gain follows.

    Attributes:
        value: told `mean`, the variance q and the constants, the moment; mean(q, square) is E[square(x)], x being
            normal with variance q.
        constants: the arguments of its module on which it depends, with their defaults: where training starts.
    """

    value: Callable[..., float]
    constants: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """How the gallery draws a row that is no function of one number: as one, with the rest held.

    Attributes:
        curve: told F and x, the value.
        note: what the rest is held at.
        across, up: what the axes show.
        helpers: thin lines for orientation, told x; such as the pieces of a maximum.
        band: the lower and upper edge of a random output, each told F and x.
    """

    curve: Callable[[Any, Tensor], Tensor]
    note: str
    across: str = "x"
    up: str = "f(x)"
    helpers: tuple[Callable[[Tensor], Tensor], ...] = ()
    band: tuple[Callable[[Any, Tensor], Tensor], ...] = ()


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
        searched: whether `nnkernels tune` chooses among it unless it is told others.
        example: what `check` and the tests evaluate, of rows that are no function of one number.
        picture: how the gallery draws those.
        moment: the second moment, where it does not follow from the formula of a stateless row.
    """

    name: str
    module: str
    formula: str
    derivative: str
    range: str
    source: str
    good_for: str
    drawback: str
    searched: bool = field(default=False, kw_only=True)
    example: Example | None = field(default=None, kw_only=True)
    picture: Picture | None = field(default=None, kw_only=True)
    moment: Moment | None = field(default=None, kw_only=True)

    def __reduce__(self) -> tuple[Callable[[str], Row], tuple[str]]:
        return row_called, (self.name,)


@dataclass(frozen=True, eq=False)
class Activation(Row):
    """An activation function of a single tensor and at most two constants, element by element.

    Attributes:
        parameters: the constants' names and defaults, in the order of the signature.
        inplace: whether the function takes `inplace=`, as PyTorch's does.
        keeps_output: told the parameters, whether the derivative at the output equals the derivative at the input, so
            that backward may keep the output, which the next layer often keeps as well.
        output_tells: whether the derivative follows from the output, but for the tails, of a positive first parameter;
            how, tells `from_output` of the formula in `reference/`.
        slopes: told the parameters, the two values of the derivative, left and right of its first knee, of which
            backward may keep one bit; None for the others.
        refuses: told the parameters, the exception that torch raises for them, or None.
        masks: whether the derivative is made of pieces, so that the gradient is 0 where the derivative is, also if what
            comes from above is infinite or NaN; a smooth derivative that underflowed to 0 hides neither.
        float32_under_cuda_autocast: whether PyTorch's CUDA autocast runs it in float32.
        reference: the value in torch operations, told the tensor and the parameters, of an activation that a user
            registered; the others' stand in `reference/`.
        variant: the value of `approximate` under which `functional.gelu` means this row.
        gain: told the parameters, the initial gain, where a closed form is known or another than the criterion's usual.
        peer: told F, the tensor and the parameters, what a user of PyTorch would write, where torch has no namesake.
        shown: the parameters with which the gallery draws it, where they show more than the defaults do.
        window: from where to where the gallery draws it.
    """

    parameters: Mapping[str, float] = field(default_factory=dict)
    inplace: bool = True
    keeps_output: Callable[[float, float], bool] = lambda a, b: False
    output_tells: bool = False
    slopes: Callable[[float, float], tuple[float, float]] | None = None
    refuses: Callable[[float, float], Exception | None] | None = None
    masks: bool = False
    float32_under_cuda_autocast: bool = False
    reference: Callable[..., Tensor] | None = None
    variant: str | None = None
    gain: Callable[..., float] | None = None
    peer: Callable[..., Tensor] | None = None
    shown: tuple[float, ...] | None = None
    window: tuple[float, float] = (-4.0, 4.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))


@dataclass(frozen=True, eq=False)
class Learned(Row):
    """An activation with parameters of its own, that training changes.

    Of a row that tells where its parameters start, function, module, what is evaluated and what is drawn are made.

    Attributes:
        start: the parameters' names and where training starts, in the order of the function: each parameter is a single
            one or one for each channel. Empty where function and module are written by hand.
    """

    start: Mapping[str, float] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", MappingProxyType(dict(self.start)))
        name, start = self.name, tuple(self.start.values())  # not the row, which a compiler cannot see through
        if start and self.example is None:
            shapes = ((3, 4, 5), *[(4,)] * len(start))
            called = Example(
                lambda F, *tensors: getattr(F, name)(*tensors), shapes, slack=2.0
            )  # sums of what is rounded
            object.__setattr__(self, "example", called)
        if start and self.picture is None:
            told = ", ".join(f"{parameter} = {value:g}" for parameter, value in self.start.items())
            held = Picture(
                lambda F, x: getattr(F, name)(x, *(x.new_tensor([value]) for value in start)),
                f"{told}, where training starts",
            )
            object.__setattr__(self, "picture", held)


@dataclass(frozen=True, eq=False)
class Random(Row):
    """An activation that draws random numbers in training."""


@dataclass(frozen=True, eq=False)
class Reducing(Row):
    """An activation whose elements depend on each other along a dimension."""


@dataclass(frozen=True, eq=False)
class Gated(Row):
    """A product of two halves of a tensor, or of two tensors, one of them through an activation.

    Function and module are made of the row, unless `functional/gated.py` and `nn/gated.py` have them. All are called
    alike, so that what is evaluated and what is drawn follow from the name as well: a gate whose other half is 1.

    Attributes:
        gate: the stateless row that this activation is.
    """

    gate: str = field(kw_only=True)

    def __post_init__(self) -> None:
        name = self.name  # not the row, which a compiler cannot see through
        if self.example is None:
            object.__setattr__(self, "example", Example(lambda F, x: getattr(F, name)(x), ((3, 8),)))
        if self.picture is None:
            held = Picture(
                lambda F, x: getattr(F, name)(x, up=x.new_ones(x.shape)), "what it gates is 1", "gate", "product"
            )
            object.__setattr__(self, "picture", held)


@dataclass(frozen=True, eq=False)
class Fused(Row):
    """Several steps in one pass: a stateless activation f, any of the catalogue, with what stands before and behind it,
    or what networks with a memory or capsules do at every place."""


_ROWS: dict[str, Row] = {}

Kind = TypeVar("Kind", bound=Row)


def add(row: Row) -> None:
    """Puts `row` into the catalogue."""
    _ROWS[row.name] = row


def activations() -> tuple[str, ...]:
    """The names of the activations in the catalogue, whose fused forms take one of them by name.

    Example:
        >>> import nnkernels
        >>> "mish" in nnkernels.activations()
        True
    """
    return tuple(row.name for row in _ROWS.values() if not isinstance(row, Fused))


def activation(name: str) -> Row:
    """The catalogue's row of the activation called `name`.

    Raises:
        ValueError: there is no such row; the message lists the known names.

    Example:
        >>> import nnkernels
        >>> nnkernels.activation("mish").formula
        'x tanh(softplus(x))'
    """
    return _found(name, activations())


def row_called(name: str) -> Row:
    """The catalogue's row called `name`, an activation's or a fused form's.

    Raises:
        ValueError: there is no such row; the message lists the known names.

    Example:
        >>> from nnkernels.registry import row_called
        >>> row_called("layer_norm_act").module
        'LayerNormAct'
    """
    return _found(name, tuple(_ROWS))


def _found(name: str, known: tuple[str, ...]) -> Row:
    if name in known:
        return _ROWS[name]
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {close[0]!r}" if close else ""
    raise ValueError(f"unknown activation {name!r}{hint}; the known ones are: {', '.join(known)}")


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
    gain=lambda: 1.0,
    moment=Moment(lambda mean, q: q),
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


@overload
def catalogue() -> tuple[Row, ...]: ...


@overload
def catalogue(kind: type[Kind]) -> tuple[Kind, ...]: ...


def catalogue(kind: type[Row] = Row) -> tuple[Row, ...]:
    """The rows of one kind (by default of all), in the order of docs/activations.md."""
    return tuple(row for row in _ROWS.values() if isinstance(row, kind))
