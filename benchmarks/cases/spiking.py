"""Leaky integrate-and-fire neurons over 16 steps; backward reads the current and the gradient, and no potentials."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

import nnkernels.functional as F

from . import Case


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, above: Tensor) -> Tensor:
        ctx.save_for_backward(above)
        return (above > 0).to(above)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (above,) = ctx.saved_tensors
        return grad / (1 + 5 * above.abs()).square()


def eager(current: Tensor) -> Tensor:
    """What a user of torch writes: a loop over time."""
    v = spike = torch.zeros_like(current[0])
    spikes = []
    for received in current.unbind(0):
        v = 0.5 * v + received - spike.detach()
        spike = _Step.apply(v - 1)
        spikes.append(spike)
    return torch.stack(spikes)


ours = partial(F.lif, decay=0.5)


def _case(size: str, shape: tuple[int, ...], device: str, dtype: torch.dtype, **bars: float) -> Case:
    def inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        # Of so few bits that no potential is rounded: near the threshold a surrogate magnifies what rounding took.
        return ((torch.randn(shape, device=device) * 16).round().div(16).to(dtype).requires_grad_(),)

    return Case(
        f"lif-{size}", inputs, ours, eager,
        lambda x: 2 * x.numel() * x.element_size(), lambda x: 3 * x.numel() * x.element_size(),
        device=device, dtype=dtype, **bars,
    )  # fmt: skip


CASES = [
    _case("16x128x4096", (16, 128, 4096), "cuda", torch.bfloat16, forward_bar=0.9, backward_bar=0.9),
    _case("16x64x128x16x16", (16, 64, 128, 16, 16), "cuda", torch.float32, forward_bar=0.9, backward_bar=0.9),
    _case("cpu-16x32x128", (16, 32, 128), "cpu", torch.float32, forward_bar=4.0, backward_bar=4.0),
    _case("cpu-16x128x512", (16, 128, 512), "cpu", torch.float32, forward_bar=4.0, backward_bar=4.0),
]
