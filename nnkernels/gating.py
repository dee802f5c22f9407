"""What a gated call computes, and how a packed tensor comes apart into gate and up."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class Gating(NamedTuple):
    """y = f(min(gate, limit)) (min(max(up, -limit), limit) + offset), f being the `activation` with constants a and b."""

    activation: str
    a: float
    b: float
    dim: int
    interleaved: bool
    gate_first: bool
    limit: float  # infinity: none
    offset: float  # -0.0: none, since x + -0.0 is x even where x is -0.0


def is_bounded(gating: Gating) -> bool:
    """Whether anything happens to gate and up before the activation."""
    return gating.limit < math.inf or gating.offset != 0


def halves(gating: Gating, packed: Tensor) -> tuple[Tensor, Tensor]:
    """Gate and up as views of the packed tensor."""
    dim = gating.dim % packed.dim()
    half = packed.shape[dim] // 2
    if gating.interleaved:
        pairs = packed.unflatten(dim, (half, 2))
        first, second = pairs.select(dim + 1, 0), pairs.select(dim + 1, 1)
    else:
        first, second = packed.narrow(dim, 0, half), packed.narrow(dim, half, half)
    return (first, second) if gating.gate_first else (second, first)


def gate_and_up(gating: Gating, input: Tensor, up: Tensor | None) -> tuple[Tensor, Tensor]:
    """Gate and up of a call: the halves of `input`, or the two tensors that were given."""
    return halves(gating, input) if up is None else (input, up)
