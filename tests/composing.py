"""Gated activations as a user of torch would write them, and inputs to compare them on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

eager = torch.nn.functional


def composed(x: Tensor, f: Any, dim: int = -1, interleaved: bool = False, gate_first: bool = True) -> Tensor:
    """What a user of torch would write."""
    if interleaved:
        first, second = x.movedim(dim, -1)[..., ::2].movedim(-1, dim), x.movedim(dim, -1)[..., 1::2].movedim(-1, dim)
    else:
        first, second = x.chunk(2, dim)
    return f(first) * second if gate_first else f(second) * first


def off_knees(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.empty(*shape, dtype=torch.float64).uniform_(-4, 4, generator=generator)
    return torch.where((2 * x - (2 * x).round()).abs() < 0.04, x + 0.11, x)
