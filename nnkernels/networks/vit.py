"""The vision transformer (Dosovitskiy et al. 2020): a picture is a sequence of patches that ask each other."""

from __future__ import annotations

import torch
from torch import Tensor

from .activating import initialise
from .attending import Attending
from .expecting import expect

_SIDE = 8
"""Patches along the longer side of a picture, at most."""


class ViT(Attending):
    """Cuts a picture into square patches, tells each its place, and reads the mean of what blocks make of them.

    Args:
        shape: (channels, height, width) of one picture; both sides multiples of the patch's, which is the smallest
            power of two that makes at most 8 patches a side.
        outputs: numbers for each picture.
        activation: any name of the catalogue; a stateless one becomes a gate.
        width: features of a patch, a multiple of 32.
        depth: blocks.
        dropout: the probability, of attention and behind each half of a block.

    Shape: `(batch, channels, height, width)` to `(batch, outputs)`.

    Raises:
        ValueError: the sides are no multiples of the patch's, or the width is none of 32.

    Example:
        >>> import torch
        >>> from nnkernels.networks.vit import ViT
        >>> vit = ViT((1, 28, 28), 10, width=32)
        >>> vit(torch.zeros(3, 1, 28, 28)).shape, vit.place.shape
        (torch.Size([3, 10]), torch.Size([49, 32]))
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        outputs: int,
        *,
        activation: str = "gelu",
        width: int = 64,
        depth: int = 2,
        dropout: float = 0.0,
    ) -> None:
        expect(self, shape, "channels", "height", "width")
        channels, height, breadth = shape
        side = 2
        while max(height, breadth) > _SIDE * side:
            side *= 2
        if height % side or breadth % side:
            raise ValueError(f"{height} x {breadth} pixels cannot be cut into patches of {side} x {side}")
        places = height * breadth // side**2
        super().__init__(places, activation, width, depth, dropout, turning=False)
        self.shape = shape
        self.patches = torch.nn.Conv2d(channels, width, side, stride=side)
        self.place = torch.nn.Parameter(0.02 * torch.randn(places, width))
        self.head = torch.nn.Linear(width, outputs)
        initialise(self.patches, "linear")
        initialise(self.head, "linear")

    def embedded(self, x: Tensor) -> Tensor:
        """Patches with their places, `(batch, places, width)`."""
        expect(self, x, "batch", *self.shape)
        return self.patches(x).flatten(2).mT + self.place

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attended(self.embedded(x)).mean(1))
