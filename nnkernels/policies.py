"""What backward keeps: the policy, whom it can serve, and what it keeps instead of the input.

    auto         exact, and the fastest of the exact ones: the output where the derivative there is the same, else the
                 input; bits on a GPU from 2^25 elements on; rrelu's slopes on a CPU
    input        exact for every activation: the input
    output       the output, from which the derivative follows: exact for the ReLU-like ones; for sigmoid, tanh, elu,
                 celu, selu, softplus, softsign and logsigmoid the tails are lost, as in torch's own backward
    bits         exact for derivatives of two values: one bit for each element; rrelu's seed, or a prelu weight that is
                 frozen, gives the other value
    compressed   the derivative itself in 8 bits ("compressed4": in 4), rounded to the nearest of 256 (16) levels from
                 its least to its greatest value; derivatives of two values take one bit and stay exact
    recompute    around a whole model: what follows keeps no output of an activation, norm or gate, but makes it again
                 of what those keep

`docs/saving.md` has the bytes and the errors.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from types import TracebackType

import torch

from . import reference
from .choosing import Choice, Choosing
from .contracts.saving import Levels
from .registry import Activation

POLICIES = ("auto", "input", "output", "bits", "compressed", "compressed4", "recompute")

BITS_PAY = 2**25
"""From how many elements on a GPU's passes with one bit, less memory traffic but a launch from Python, are faster."""


chosen = Choice("saving", "auto")
"""The policy given to `saving`."""


class saving(Choosing):
    """Chooses what backward keeps, in a `with` statement until its end, else from here on.

    A `with` statement holds in its own thread or task. A bare call holds until the end of the `with` statement around
    it, or for the whole process. One object may be entered again and again.

    Args:
        policy: "auto", "input", "output", "bits", "compressed", "compressed4" or "recompute"; see the module's text. A
            module's own `saving=` goes before it. "recompute" is for a `with` statement around a model's forward pass.

    Raises:
        ValueError: `policy` is none of these. A call that the policy cannot serve, such as "bits" for silu, raises
            ValueError as well.

    It has no effect under torch.compile, whose own partitioner decides what backward keeps, and under torch.func, which
    refuses "recompute", as it does all hooks of saved tensors.

    Source: Chakrabarti & Moseley 2019 and Chen et al. 2021 (ActNN), for keeping activations in few bits.

    Example:
        >>> import torch, nnkernels
        >>> x = torch.randn(1000, requires_grad=True)
        >>> with nnkernels.saving("bits"):
        ...     y = nnkernels.functional.relu(x)  # backward keeps 125 bytes
        >>> y.sum().backward()
    """

    _choice = chosen

    def __init__(self, policy: str) -> None:
        check_name(policy)
        super().__init__(policy)
        self._hooks: list[AbstractContextManager[None]] = []

    def __enter__(self) -> saving:
        if self._name == "recompute":
            from .autograd.recomputing import hooks

            self._hooks.append(hooks())
            self._hooks[-1].__enter__()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._hooks:
            self._hooks.pop().__exit__(kind, error, trace)
        super().__exit__(kind, error, trace)


def check_name(policy: str) -> None:
    if policy not in POLICIES:
        raise ValueError(f"unknown saving policy {policy!r}; the known ones are: {', '.join(POLICIES)}")


def check(row: Activation, policy: str, a: float, b: float) -> None:
    """Raises ValueError, which says what would do, if `policy` cannot serve `row` with the constants `a` and `b`."""
    check_name(policy)
    if policy == "bits" and row.slopes is None:
        raise ValueError(
            f"saving('bits') cannot serve {row.name}: its derivative has more than two values; "
            "'compressed' keeps 8 bits of it, 'input' is exact"
        )
    if policy == "output" and not row.keeps_output(a, b) and not _follows_from_output(row, a):
        raise ValueError(
            f"saving('output') cannot serve {row.name}{_shown(row, a, b)}: "
            "its derivative does not follow from its output; 'input' is exact"
        )
    if policy.startswith("compressed") and row.slopes is None:
        _range(row.name, a, b)


def check_rrelu(policy: str, lower: float, upper: float) -> None:
    """Raises ValueError, which says what would do, if `policy` cannot serve rrelu in training."""
    check_name(policy)
    if policy == "output" and not keeps_sign(lower, upper):
        raise ValueError(
            f"saving('output') cannot serve rrelu(lower={lower}, upper={upper}): its output does not tell the input's "
            "sign; 'bits' and 'input' are exact"
        )


def keeps_sign(lower: float, upper: float) -> bool:
    """Whether rrelu's output is above 0 exactly where its input is, -inf included: no slope is 0 or below."""
    return lower >= 0 and upper > 0


def check_learned(name: str, policy: str, learns: bool) -> None:
    """Raises ValueError, which says what would do, if `policy` cannot serve the learned activation called `name`.

    `learns` says whether a parameter requires a gradient.
    """
    check_name(policy)
    if policy in ("auto", "input", "recompute"):
        return
    if name != "prelu" or policy == "output":
        raise ValueError(f"saving({policy!r}) cannot serve {name}, whose gradient takes the input; 'input' is exact")
    if learns:
        raise ValueError(
            f"saving({policy!r}) cannot serve prelu with a weight that requires a gradient, which takes the input "
            "where it is negative; 'input' is exact, or freeze the weight: weight.requires_grad_(False)"
        )


def check_of_module(row: Activation, policy: str | None, a: float, b: float) -> None:
    refuse_recompute(policy)
    if policy is not None:
        check(row, policy, a, b)


def refuse_recompute(policy: str | None) -> None:
    """Raises ValueError for the policy that is no module's, but a model's."""
    if policy == "recompute":
        raise ValueError(
            "saving='recompute' concerns the layer after the activation: "
            "use `with nnkernels.saving('recompute'):` around the model's forward pass"
        )


def levels(row: Activation, policy: str, a: float, b: float) -> Levels | None:
    """The numbers among which `policy` keeps the derivative of `row`, or None if it keeps a whole tensor."""
    if policy not in ("bits", "compressed", "compressed4"):
        return None
    if row.slopes is not None:
        return Levels(1, *row.slopes(a, b))
    return Levels(4 if policy == "compressed4" else 8, *_range(row.name, a, b))


@cache
def _range(name: str, a: float, b: float) -> tuple[float, float]:
    """The least and the greatest derivative.

    Raises:
        ValueError: it has no bounds.
    """
    near = torch.linspace(-30, 30, 120_001, dtype=torch.float64)
    far = torch.logspace(1, 6, 501, dtype=torch.float64)
    x = torch.cat([near, 1e-3 * near, far, -far])
    slopes = reference.FORMULAS[name].d1(x, a, b)
    slopes = slopes[~slopes.isnan()]  # as a user's own formula may have it far out
    low, high = slopes.min().item(), slopes.max().item()
    if high - low > 100:
        raise ValueError(f"saving('compressed') cannot serve {name}: its derivative has no bounds; 'input' is exact")
    return low, high


def _follows_from_output(row: Activation, a: float) -> bool:
    return row.output_tells and (a > 0 or not row.parameters)


def _shown(row: Activation, a: float, b: float) -> str:
    constants = ", ".join(f"{name}={value}" for name, value in zip(row.parameters, (a, b), strict=False))
    return f"({constants})" if constants else ""
