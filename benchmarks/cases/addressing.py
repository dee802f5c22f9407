"""Content addressing; backward reads the memory and the gradient, and writes the memory's."""

from __future__ import annotations

import torch
from torch import Tensor

import nnkernels.functional as F

from . import Case


def _unit(x: Tensor) -> Tensor:
    return x * (x.square().sum(-1, keepdim=True) + 1e-4).rsqrt()


def lookup(memory: Tensor, key: Tensor, strength: Tensor) -> Tensor:
    """What a user of torch writes for the differentiable neural computer."""
    return torch.softmax(strength.unsqueeze(2) * (_unit(key) @ _unit(memory).mT), -1)


def addressing(
    memory: Tensor,
    key: Tensor,
    strength: Tensor,
    gate: Tensor,
    previous: Tensor,
    shift: Tensor,
    sharpness: Tensor,
) -> Tensor:
    """The same for the neural Turing machine."""
    mixed = previous + gate.unsqueeze(2) * (lookup(memory, key, strength) - previous)
    back, stay, ahead = shift.split(1, -1)
    turned = back * mixed.roll(-1, -1) + stay * mixed + ahead * mixed.roll(1, -1)
    return torch.softmax(sharpness.unsqueeze(2) * turned.clamp(min=1e-12).log(), -1)


def tensors(batch: int, heads: int, slots: int, size: int, device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The arguments of `addressing`."""
    per_head = (batch, heads)
    found = (
        torch.randn(batch, slots, size, device=device),
        torch.randn(*per_head, size, device=device),
        1 + torch.rand(per_head, device=device),
        torch.rand(per_head, device=device),
        torch.randn(*per_head, slots, device=device).softmax(-1),
        torch.randn(*per_head, 3, device=device).softmax(-1),
        1 + torch.rand(per_head, device=device),
    )
    return tuple(tensor.to(dtype).requires_grad_() for tensor in found)


def _bytes(*given: Tensor) -> int:
    """Of the memory once; the rest is small."""
    return given[0].numel() * given[0].element_size()


def _case(device: str, batch: int, heads: int, slots: int, size: int, whole: bool, bar: float | None) -> Case:
    def inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return tensors(batch, heads, slots, size, device, dtype)[: 7 if whole else 3]

    return Case(
        f"{'addressing' if whole else 'lookup'}-{batch}x{heads}x{slots}x{size}", inputs, F.content_addressing,
        addressing if whole else lookup, _bytes, lambda *given: 2 * _bytes(*given),
        slack=4.0, device=device, dtype=torch.float32, forward_bar=bar, backward_bar=bar,
    )  # fmt: skip


CASES = [
    *(_case("cuda", batch, heads, slots, size, whole, None)
      for batch, heads, slots, size in ((16, 2, 128, 20), (64, 4, 256, 32), (1024, 4, 256, 64))
      for whole in (True, False)),
    *(_case("cpu", batch, heads, slots, size, whole, 3.0)
      for batch, heads, slots, size in ((16, 2, 24, 12), (16, 2, 128, 20), (64, 2, 128, 20), (16, 4, 512, 64))
      for whole in (True, False)),
]  # fmt: skip
