"""Derivatives kept in a few bits, in torch operations."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts.saving import Levels
from ..registry import elementwise
from . import FORMULAS, compute_dtype, evaluate, rounded


def quantised_forward(name: str, x: Tensor, a: float, b: float, levels: Levels, y: Tensor) -> Tensor:
    slope = FORMULAS[name].d1(x.to(compute_dtype(x)), *rounded(x, a, b))
    if levels.bits == 1:
        codes = slope != levels.low
    else:
        most = 2**levels.bits - 1
        codes = ((slope - levels.low) * (most / (levels.high - levels.low))).round().nan_to_num().clamp(0, most)
    y.copy_(evaluate(name, "value", x, a, b))
    return pack(codes, levels.bits)


def quantised_backward(name: str, grad: Tensor, packed: Tensor, levels: Levels) -> Tensor:
    most = 2**levels.bits - 1
    codes = unpack(packed, levels.bits, grad.numel())
    wide = grad.to(compute_dtype(grad))
    low, high = levels.low, levels.high
    if levels.bits == 1:
        product = torch.where(codes == 1, wide * high, wide * low)
    else:
        product = wide * (codes.to(wide.dtype) * ((high - low) / most) + low)
    if elementwise(name).masks:
        product = torch.where(codes == 0, 0.0, product) if low == 0 else product
    return product.to(grad.dtype)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Numbers below 2^bits, packed."""
    padded = torch.nn.functional.pad(codes.to(torch.int32), (0, -codes.numel() % (8 // bits)))
    return (padded.view(-1, 8 // bits) << torch.arange(0, 8, bits, device=codes.device)).sum(1).to(torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` numbers that `pack` packed."""
    shifts = torch.arange(0, 8, bits, device=packed.device)
    return (packed.to(torch.int32).unsqueeze(1) >> shifts & (2**bits - 1)).flatten()[:count]
