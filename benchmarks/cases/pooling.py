"""Maxout of four pieces: backward reads two bits for each output, and not the input."""

from __future__ import annotations

import torch
from torch import Tensor

import nnkernels.functional as F

from . import Case

_PIECES = 4


def _case(size: str, shape: tuple[int, ...], dim: int, device: str, dtype: torch.dtype, **bars: float) -> Case:
    def inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return (torch.randn(shape, device=device, dtype=dtype).requires_grad_(),)

    def moved(x: Tensor) -> int:
        outputs = x.numel() // _PIECES
        return (x.numel() + outputs) * x.element_size() + outputs // 4

    def eager(x: Tensor) -> Tensor:
        at = dim % x.dim()
        return x.unflatten(at, (-1, _PIECES)).max(at + 1).values

    return Case(
        f"maxout-{size}", inputs, lambda x: F.maxout(x, _PIECES, dim), eager, moved, moved,
        device=device, dtype=dtype, **bars,
    )  # fmt: skip


CASES = [
    _case("64x256x56x56", (64, 256, 56, 56), 1, "cuda", torch.bfloat16, forward_bar=0.95, backward_bar=0.95),
    _case("16384x8192", (16384, 8192), -1, "cuda", torch.bfloat16, forward_bar=0.95, backward_bar=0.95),
    _case("cpu-64x64x16x16", (64, 64, 16, 16), 1, "cpu", torch.float32, forward_bar=1.0, backward_bar=5.0),
    _case("cpu-1024x1024", (1024, 1024), -1, "cpu", torch.float32, forward_bar=1.0, backward_bar=5.0),
]
