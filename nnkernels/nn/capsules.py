"""Capsules, vectors whose lengths say whether and directions how, as modules."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional.capsules import route, squash

__all__ = ["Route", "Squash"]


class Squash(torch.nn.Module):
    """Vectors whose lengths n become n^2 / (1 + n^2); see `nnkernels.functional.squash`.

    Args:
        dim: the dimension of the vectors' numbers.

    Shape: `(*)` to `(*)`.
    Source: Sabour, Frosst & Hinton 2017, Dynamic Routing Between Capsules.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.Squash()(torch.tensor([0.6, 0.8]))
        tensor([0.3000, 0.4000])
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return squash(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Route(torch.nn.Module):
    """Routing by agreement of capsules; see `nnkernels.functional.route`.

    Args:
        rounds: how many.

    Shape: votes `(batch, below, above, size)` to `(batch, above, size)`.
    Source: Sabour, Frosst & Hinton 2017, Dynamic Routing Between Capsules.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.Route(rounds=2)(torch.zeros(2, 72, 10, 8)).shape
        torch.Size([2, 10, 8])
    """

    def __init__(self, rounds: int = 3) -> None:
        super().__init__()
        self.rounds = rounds

    def forward(self, votes: Tensor) -> Tensor:
        return route(votes, self.rounds)

    def extra_repr(self) -> str:
        return f"rounds={self.rounds}"
