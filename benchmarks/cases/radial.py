"""Gaussian radial basis functions; backward reads x, the centers and the gradient and writes two gradients.

On the CPU the bar of 2.5 is for forward and backward together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import nnkernels.functional as F

from . import Case


def eager(x: Tensor, centers: Tensor) -> Tensor:
    """What a user of torch writes who wants near distances right: all differences are stored."""
    return torch.exp(-(x.unsqueeze(-2) - centers).square().sum(-1) / x.shape[-1])


def ours(x: Tensor, centers: Tensor) -> Tensor:
    return F.gaussian_rbf(x, centers, 1 / x.shape[-1])


def _bytes(*tensors: Tensor) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)


def _case(rows: int, centers: int, features: int, device: str, **bars: float) -> Case:
    def inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        made = (torch.randn(n, features, device=device, dtype=dtype) for n in (rows, centers))
        return tuple(one.requires_grad_() for one in made)

    def responses(x: Tensor, c: Tensor) -> int:
        return len(x) * len(c) * x.element_size()

    given: dict[str, Any] = {"device": device, "dtype": torch.float32, **bars}
    return Case(
        f"gaussian_rbf-{device}-{rows}x{centers}x{features}", inputs, ours, eager,
        lambda x, c: _bytes(x, c) + responses(x, c), lambda x, c: 2 * _bytes(x, c) + responses(x, c), **given,
    )  # fmt: skip


CASES = [
    _case(65536, 256, 16, "cuda"),
    _case(8192, 1024, 64, "cuda"),
    _case(256, 64, 8, "cpu", forward_bar=2.5),
    _case(1000, 100, 16, "cpu", forward_bar=2.5),
    _case(1000, 100, 64, "cpu", forward_bar=2.5),
]
