"""Torch's product, then a backend's own kernels in one pass: what serves where no kernel does both at once."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor
from torch.nn.functional import linear

from .contracts import elementwise, fused, gated, pooling
from .contracts.gated import Gating
from .contracts.inner import Inner
from .contracts.linear import Ending, keeps_result
from .registry import IDENTITY


class Pair:
    """The kernels of `contracts/linear.py`, of torch's products and those of other families of one backend."""

    def __init__(
        self, activations: elementwise.Backend, ends: fused.Kernels, gates: gated.Kernels, pools: pooling.Kernels
    ) -> None:
        self.activations, self.ends, self.gates, self.pools = activations, ends, gates, pools

    def linear_act(
        self, ending: Ending, x: Tensor, weight: Tensor, bias: Tensor | None, keeps: bool
    ) -> tuple[Tensor, Tensor]:
        z = linear(x, weight, bias)
        inner = ending.inner
        if inner.name == IDENTITY.name:
            return z, z
        if keeps and not keeps_result(inner):
            return self.activations.forward(*_at(inner, z)), z
        y = self.activations.forward(*_at(inner, z), z)
        return y, y

    def activation_backward(
        self, inner: Inner, grad: Tensor, kept: Tensor, sums: bool, again: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        h = None
        if again:
            h = kept if keeps_result(inner) else self.activations.forward(*_at(inner, kept))
        if inner.name == IDENTITY.name or grad.numel() == 0:
            return grad, grad.sum(0) if sums else None, h
        rows, cols = grad.shape
        matrix = fused.Matrix(rows, cols, fused.ALONG_COLS, cols)
        return *self.ends.bias_act_backward(inner, grad, kept, None, 0.0, None, matrix, sums), h

    def hidden_backward(
        self, inner: Inner, grad: Tensor, weight: Tensor, kept: Tensor, sums: bool, again: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return self.activation_backward(inner, grad @ weight, kept, sums, again)

    def gated(self, gating: Gating, gate: Tensor, up: Tensor | None) -> Tensor:
        return self.gates.gated(gating, gate, up)

    def gated_backward(
        self, gating: Gating, grad: Tensor, gate: Tensor, up: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        return *self.gates.gated_backward(gating, grad, gate, up), self.gates.gated(gating, gate, up)

    def linear_maxout(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, pieces: int, keeps: bool
    ) -> tuple[Tensor, Tensor | None]:
        z = linear(x, weight, bias)
        y = z.new_empty((*z.shape[:-1], z.shape[-1] // pieces))
        winners = None
        if keeps:
            winners = z.new_empty(pooling.packed_bytes(y.numel(), pieces), dtype=torch.uint8)
        self.pools.maxout(z, y, winners, pieces, 1)
        return y, winners

    def maxout_backward(self, grad: Tensor, winners: Tensor, pieces: int) -> Tensor:
        wide = grad.new_empty((grad.shape[0], pieces * grad.shape[1]))
        self.pools.maxout_backward(grad, winners, wide, pieces, 1)
        return wide


def as_matrix(x: Tensor) -> Tensor:
    """The rows of `x`, (*, n), one below the other and adjacent."""
    return x.reshape(prod(x.shape[:-1]), x.shape[-1]).contiguous()


def _at(inner: Inner, z: Tensor) -> tuple[str, Tensor, float, float]:
    return inner.name, z, inner.a, inner.b
