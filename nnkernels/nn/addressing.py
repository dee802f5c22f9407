"""Heads that find the slots of a memory by what these hold, as a module."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional.addressing import EPS, content_addressing

__all__ = ["ContentAddressing"]


class ContentAddressing(torch.nn.Module):
    """Where heads are that look for their keys among slots; see `nnkernels.functional.content_addressing`.

    Args:
        eps: added to the squares of lengths.

    Shape: memory `(batch, slots, size)`, key `(batch, heads, size)`, strength `(batch, heads)` to `(batch, heads,
        slots)`; gate, previous, shift and sharpness as the function takes them.
    Source: Graves, Wayne & Danihelka 2014, Neural Turing Machines.

    Example:
        >>> import torch, nnkernels
        >>> find = nnkernels.nn.ContentAddressing()
        >>> find(torch.randn(4, 128, 20), torch.randn(4, 2, 20), torch.ones(4, 2)).shape
        torch.Size([4, 2, 128])
    """

    def __init__(self, eps: float = EPS) -> None:
        super().__init__()
        self.eps = eps

    def forward(
        self,
        memory: Tensor,
        key: Tensor,
        strength: Tensor,
        gate: Tensor | None = None,
        previous: Tensor | None = None,
        shift: Tensor | None = None,
        sharpness: Tensor | None = None,
    ) -> Tensor:
        return content_addressing(memory, key, strength, gate, previous, shift, sharpness, eps=self.eps)

    def extra_repr(self) -> str:
        return f"eps={self.eps}"
