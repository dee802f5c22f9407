"""Softmax over rows of every length, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor

import nnkernels.functional as F

from . import Case


def _case(name: str, rows: int, cols: int, device: str, dtype: torch.dtype, **bars: float) -> Case:
    def inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return (torch.randn(rows, cols, device=device, dtype=dtype).requires_grad_(),)

    def streams(count: int):
        return lambda x: count * x.numel() * x.element_size()

    function, theirs = getattr(F, name), getattr(torch.nn.functional, name)
    return Case(
        f"{name}-{rows}x{cols}", inputs, lambda x: function(x, -1), lambda x: theirs(x, -1), streams(2), streams(3),
        device=device, dtype=dtype, **bars,
    )  # fmt: skip


CASES = [
    *(
        _case("softmax", 2**27 // cols, cols, "cuda", torch.bfloat16, forward_bar=0.95, backward_bar=0.98)
        for cols in (512, 1024, 4096, 8192, 16384)
    ),
    *(
        _case("softmax", 2**27 // cols, cols, "cuda", torch.bfloat16, forward_bar=0.85, backward_bar=0.85)
        for cols in (65536, 262144)
    ),
    *(_case("softmax", 2**26 // cols, cols, "cuda", torch.bfloat16) for cols in (127, 1001, 4097, 10001, 50257)),
    _case("log_softmax", 2**17, 1024, "cuda", torch.bfloat16),
    _case("softmax", 1024, 1000, "cpu", torch.float32, forward_bar=1.3),
    _case("softmax", 256, 4096, "cpu", torch.bfloat16, forward_bar=1.3),
    _case("log_softmax", 1024, 1000, "cpu", torch.float32, forward_bar=1.0),
]
