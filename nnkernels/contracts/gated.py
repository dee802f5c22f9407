"""What a gated call computes, how a packed tensor comes apart into gate and up, and its kernels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol

from torch import Tensor


class Gating(NamedTuple):
    """y = f(min(gate, limit)) (min(max(up, -limit), limit) + offset), f being `activation` with constants a, b.

    With `limits_value` the first factor is min(f(gate), limit). With caps, which stand beside no limit, gate and up go
    through cap tanh(. / cap): y = f(gate) softcap(gate) softcap(up).
    """

    activation: str
    a: float
    b: float
    dim: int
    interleaved: bool
    gate_first: bool
    limit: float  # infinity: none
    offset: float  # -0.0: none, since x + -0.0 is x even where x is -0.0
    limits_value: bool = False
    gate_cap: float = math.inf  # infinity: no such factor
    up_cap: float = math.inf  # infinity: up as it is


def is_bounded(gating: Gating) -> bool:
    """Whether anything happens to gate and up besides the activation."""
    return gating.limit < math.inf or gating.offset != 0


def caps(gating: Gating) -> int:
    """Which caps there are: a bit for the gate's and another for up's."""
    return (gating.gate_cap < math.inf) | (gating.up_cap < math.inf) << 1


def halves(gating: Gating, packed: Tensor) -> tuple[Tensor, Tensor]:
    """Gate and up as views of the packed tensor."""
    if gating.interleaved:
        dim = gating.dim % packed.dim()
        first, second = packed.unflatten(dim, (packed.shape[dim] // 2, 2)).unbind(dim + 1)
    else:
        first, second = packed.chunk(2, gating.dim)
    return (first, second) if gating.gate_first else (second, first)


def gate_and_up(gating: Gating, input: Tensor, up: Tensor | None) -> tuple[Tensor, Tensor]:
    """Gate and up of a call: the halves of `input`, or the two tensors that were given."""
    return halves(gating, input) if up is None else (input, up)


class Kernels(Protocol):
    """The kernels of the gated activations."""

    def gated(self, gating: Gating, input: Tensor, up: Tensor | None = None) -> Tensor:
        """f(gate) up, in `input`'s type, laid out as the gate is."""

    def gated_backward(
        self, gating: Gating, grad: Tensor, input: Tensor, up: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The gradients of `input` and of `up`, the latter None for a packed input."""


if TYPE_CHECKING:
    from ..cpu import gated as cpu
    from ..reference import gated as reference
    from ..triton import gated as triton

    _: tuple[Kernels, ...] = (cpu, triton, reference)
