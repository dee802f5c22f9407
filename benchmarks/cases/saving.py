"""ReLU-like activations whose backward reads one bit for each element, and smooth ones whose backward reads 8 or 4."""

from __future__ import annotations

import torch
from torch import Tensor

import nnkernels
import nnkernels.functional as F

from . import Case


def _inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return (torch.randn(2**27, device=device, dtype=dtype).requires_grad_(),)


def _case(name: str, policy: str, bits: int, **bars: float) -> Case:
    theirs = getattr(torch.nn.functional, name)
    function = getattr(F, name)

    def ours(x: Tensor) -> Tensor:
        if policy == "auto":
            return function(x)
        with nnkernels.saving(policy):
            return function(x)

    def moved(x: Tensor) -> int:
        return 2 * x.numel() * x.element_size() + x.numel() * bits // 8

    return Case(
        f"{name}-{policy}", _inputs, ours, theirs, moved, moved, exact=not policy.startswith("compressed"), **bars
    )


CASES = [
    _case("relu", "auto", 1, forward_bar=0.95, backward_bar=0.98),
    _case("relu", "bits", 1, forward_bar=0.95, backward_bar=0.98),
    _case("leaky_relu", "bits", 1, forward_bar=0.95, backward_bar=0.98),
    _case("hardsigmoid", "bits", 1, forward_bar=0.95, backward_bar=0.98),
    _case("silu", "compressed", 8),
    _case("silu", "compressed4", 4),
]
