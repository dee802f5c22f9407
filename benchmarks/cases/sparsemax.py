"""Sparsemax over rows of every length, against the paper's algorithm in torch operations, which sorts each row."""

from __future__ import annotations

import torch
from torch import Tensor

import nnkernels.functional as F

from . import Case


def sorted_sparsemax(x: Tensor) -> Tensor:
    """What a user of torch writes."""
    ordered = x.sort(-1, descending=True).values
    sums = ordered.cumsum(-1)
    ranks = torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=x.dtype)
    count = (1 + ranks * ordered > sums).sum(-1, keepdim=True)
    return (x - (sums.gather(-1, count - 1) - 1) / count).clamp(min=0)


def _case(rows: int, cols: int, device: str, bar: float | None, spread: float = 1.0) -> Case:
    def inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return ((spread * torch.randn(rows, cols, device=device)).to(dtype).requires_grad_(),)

    return Case(
        f"sparsemax-{rows}x{cols}-spread-{spread:g}", inputs, F.sparsemax, sorted_sparsemax,
        lambda x: 2 * x.numel() * x.element_size(), lambda x: 3 * x.numel() * x.element_size(),
        device=device, dtype=torch.float32, forward_bar=bar, backward_bar=None if bar is None else 1.0,
    )  # fmt: skip


CASES = [
    *(_case(2**25 // cols, cols, "cuda", None) for cols in (64, 1024, 8192, 65536)),
    _case(2**15, 1024, "cuda", None, spread=0.01),
    _case(1024, 1000, "cpu", 5.0),
    _case(1024, 1000, "cpu", 5.0, spread=0.01),
    _case(1024, 64, "cpu", 5.0),
]
