"""Gated recurrent units after their products; backward reads the gradient and three tensors and writes three.

On the CPU the bar of 2 is for forward and backward together: backward finds the gates again, which eager keeps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import nnkernels.functional as F

from . import Case


def eager(given: Tensor, recurred: Tensor, hidden: Tensor) -> Tensor:
    """What a user of torch writes."""
    (x_r, x_z, x_n), (h_r, h_z, h_n) = given.chunk(3, -1), recurred.chunk(3, -1)
    reset, keep = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    candidate = torch.tanh(x_n + reset * h_n)
    return candidate + keep * (hidden - candidate)


def _case(rows: int, units: int, device: str, dtype: torch.dtype, **bars: float) -> Case:
    def inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        made = (torch.randn(rows, n * units, device=device, dtype=dtype) for n in (3, 3, 1))
        return tuple(one.requires_grad_() for one in made)

    def states(number: int) -> Any:
        return lambda given, recurred, hidden: number * hidden.numel() * hidden.element_size()

    return Case(
        f"gru_gates-{device}-{rows}x{units}-{str(dtype).removeprefix('torch.')}", inputs, F.gru_gates, eager,
        states(8), states(15), device=device, dtype=dtype, **bars,
    )  # fmt: skip


CASES = [
    _case(16384, 1024, "cuda", torch.bfloat16, forward_bar=0.9, backward_bar=0.9),
    _case(16384, 1024, "cuda", torch.float32, forward_bar=0.9, backward_bar=0.9),
    _case(32, 128, "cpu", torch.float32, forward_bar=2.0),
    _case(256, 256, "cpu", torch.float32, forward_bar=2.0),
    _case(256, 256, "cpu", torch.bfloat16, forward_bar=2.0),
]
