"""Derivatives kept in a few bits: see `contracts/saving.py`, whose functions these are in C++."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native
from ..contracts.saving import Levels
from ..registry import elementwise


def quantised_forward(name: str, x: Tensor, a: float, b: float, levels: Levels, y: Tensor) -> Tensor:
    index = native.index_of(name)
    return torch.ops.nnkernels.quantised_forward(x, y, index, a, b, levels.bits, levels.low, levels.high)


def quantised_backward(name: str, grad: Tensor, packed: Tensor, levels: Levels) -> Tensor:
    masks = elementwise(name).masks
    return torch.ops.nnkernels.quantised_backward(grad, packed, levels.bits, levels.low, levels.high, masks)
