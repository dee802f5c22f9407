"""The activations that keep one of several channels, as modules."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional.pooling import maxout

__all__ = ["Maxout"]


class Maxout(torch.nn.Module):
    """The greatest of each `num_pieces` neighbouring channels; see `nnkernels.functional.maxout`.

    Args:
        num_pieces: how many channels form a group.
        dim: the dimension of the channels.

    Shape: `(*, num_pieces * C, *)` to `(*, C, *)`.
    Source: Goodfellow, Warde-Farley, Mirza, Courville & Bengio 2013, Maxout Networks.

    Example:
        >>> import torch, nnkernels
        >>> layer = torch.nn.Sequential(torch.nn.Linear(8, 4 * 3), nnkernels.nn.Maxout(4))
        >>> layer(torch.zeros(2, 8)).shape
        torch.Size([2, 3])
    """

    def __init__(self, num_pieces: int, dim: int = 1) -> None:
        super().__init__()
        self.num_pieces = num_pieces
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return maxout(input, self.num_pieces, self.dim)

    def extra_repr(self) -> str:
        return f"num_pieces={self.num_pieces}, dim={self.dim}"
