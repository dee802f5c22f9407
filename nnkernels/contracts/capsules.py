"""Capsules, vectors whose lengths say whether and directions how, and their kernels.

    squash(x) = x n / (1 + n^2)                                n = |x|: the length becomes n^2 / (1 + n^2)

Routing by agreement lets each capsule i below share its votes out among the capsules a above. In every round, with
heard[a] the sum of capsules[a] over the rounds before, 0 in the first:

    share[i, a]  = softmax over a of votes[i, a] . heard[a]
    sum[a]       = sum over i of share[i, a] votes[i, a]
    capsules[a]  = squash(sum[a])

The agreement is linear in the votes, so that none is kept from round to round. Gradients pass by the shares, as in the
paper: that of votes[i, a] is share[i, a] times that of sum[a].

All is computed in float32 for 16-bit data, and in the data's type otherwise. Of the last round, backward needs the
shares (batch, below, above) and sums (batch, above, size), contiguous and of the type that is computed in; no votes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

ON_CHIP = 4096
"""Numbers of the largest tile that a program on a GPU holds; of float64 half as many."""


def fits_on_chip(x: Tensor, *sizes: int) -> bool:
    """Whether a program on a GPU can hold vectors of `x`, of `sizes`, which are rounded up to powers of two."""
    tile = 1 << sum((size - 1).bit_length() for size in sizes)
    return tile <= (ON_CHIP // 2 if x.dtype == torch.float64 else ON_CHIP)


class Kernels(Protocol):
    """The kernels of capsules."""

    def squash(self, x: Tensor, y: Tensor, size: int, inner: int) -> None:
        """Writes y, both contiguous: vectors of `size` numbers, of which `inner` lie side by side."""

    def squash_backward(self, grad: Tensor, x: Tensor, grad_x: Tensor, size: int, inner: int) -> None:
        """Writes the gradient of x, laid out alike."""

    def route(self, votes: Tensor, capsules: Tensor, shares: Tensor | None, sums: Tensor | None, rounds: int) -> None:
        """Writes the capsules above (batch, above, size) and, if given, the shares and sums of the last round.

        Votes are (batch, below, above, size), these and the capsules of any strides.
        """

    def route_backward(self, grad: Tensor, shares: Tensor, sums: Tensor, grad_votes: Tensor) -> None:
        """Writes the gradient of the votes, told that of the capsules; both of any strides."""


if TYPE_CHECKING:
    from ..cpu import capsules as cpu
    from ..reference import capsules as reference
    from ..triton import capsules as triton

    _: tuple[Kernels, ...] = (cpu, triton, reference)
