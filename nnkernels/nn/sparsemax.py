"""Sparsemax as a module."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional.sparsemax import sparsemax

__all__ = ["Sparsemax"]


class Sparsemax(torch.nn.Module):
    """The point of the probability simplex nearest to the logits; see `nnkernels.functional.sparsemax`.

    Args:
        dim: the dimension along which the results sum to 1.

    Shape: input and output alike, any shape. Source: Martins & Astudillo 2016, From Softmax to Sparsemax.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.Sparsemax()(torch.tensor([0.5, 0.0, -1.0]))
        tensor([0.7500, 0.2500, 0.0000])
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return sparsemax(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
