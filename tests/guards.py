"""Tensors in any layout inside larger poisoned memory, which tells whether anything but their elements was written.

Reading beyond a tensor gives NaN, or the pattern's bytes; writing beyond it is found by `Guarded.intruded`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

_ZONE = 64
_PATTERN = 0x5A
LAYOUTS = ("contiguous", "permuted", "channels_last", "stepped", "rows", "expanded")


@dataclass
class Guarded:
    """`tensor` lies somewhere in `memory`, whose bytes were `before`."""

    tensor: Tensor
    memory: Tensor
    before: Tensor

    def intruded(self, written: bool = False) -> bool:
        """Whether memory changed: any of it, or where the tensor was to be written what lies around its elements."""
        changed = (_bytes(self.memory) != self.before).any(1)
        if written and self.tensor.numel():
            changed.as_strided(self.tensor.shape, self.tensor.stride(), self.tensor.storage_offset()).fill_(False)
        return bool(changed.any())


def _bytes(memory: Tensor) -> Tensor:
    return memory.view(torch.uint8).view(-1, memory.element_size())


def guarded(values: Tensor, layout: str, rng: random.Random) -> Guarded:
    """`values` of their own shape and type, laid out as asked; "expanded" repeats the first along some dimensions."""
    shape = tuple(values.shape)
    strides = _strides(shape, layout, rng)
    offset = _ZONE + rng.randrange(8)
    span = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1 if values.numel() else 0
    memory = torch.empty(offset + max(span, 1) + _ZONE, dtype=values.dtype)
    if values.dtype.is_floating_point and rng.random() < 0.5:
        memory.fill_(float("nan"))
    else:
        memory.view(torch.uint8).fill_(_PATTERN)
    tensor = memory.as_strided(shape, strides, offset)
    if values.numel():
        kept = values
        for dim, stride in enumerate(strides):
            if stride == 0:
                kept = kept.narrow(dim, 0, 1)
        memory.as_strided(kept.shape, strides, offset).copy_(kept)
    return Guarded(tensor, memory, _bytes(memory).clone())


def _strides(shape: tuple[int, ...], layout: str, rng: random.Random) -> tuple[int, ...]:
    order = list(range(len(shape)))
    if layout == "permuted":
        rng.shuffle(order)
    elif layout == "channels_last" and len(shape) > 2:
        order.append(order.pop(1))
    repeated = {dim for dim in order if layout == "expanded" and rng.random() < 0.5}
    stepped = set(rng.sample(order, min(2, len(order)))) if layout == "stepped" else set()
    strides, extent = [0] * len(shape), 1
    for place, dim in enumerate(reversed(order)):
        if dim in repeated:
            continue
        step = rng.choice((2, 3)) if dim in stepped else 1
        strides[dim] = extent * step
        extent *= max(shape[dim], 1) * step
        if layout == "rows" and place == 0:
            extent *= 2
    return tuple(strides)
