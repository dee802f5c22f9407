"""Derivatives kept in a few bits, in torch operations.

Tensors are of one dimension, adjacent in memory. In `packed`, a uint8 tensor, element i has the bits from i * bits on,
the lowest bit of a byte first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..policies import Levels
from ..registry import elementwise
from . import FORMULAS, compute_dtype, evaluate, rounded


def quantised_forward(name: str, x: Tensor, a: float, b: float, levels: Levels, y: Tensor) -> Tensor:
    """Writes f(x) to `y`, which may be `x`, and returns f'(x) as one of the levels, packed."""
    slope = FORMULAS[name].d1(x.to(compute_dtype(x)), *rounded(x, a, b))
    if levels.bits == 1:
        codes = slope != levels.low
    else:
        most = 2**levels.bits - 1
        codes = ((slope - levels.low) * (most / (levels.high - levels.low))).round().nan_to_num().clamp(0, most)
    padded = torch.nn.functional.pad(codes.to(torch.int32), (0, -x.numel() % (8 // levels.bits)))
    y.copy_(evaluate(name, "value", x, a, b))
    return (padded.view(-1, 8 // levels.bits) << _shifts(x, levels)).sum(1).to(torch.uint8)


def quantised_backward(name: str, grad: Tensor, packed: Tensor, levels: Levels) -> Tensor:
    """grad times the derivative that `packed` holds."""
    most = 2**levels.bits - 1
    codes = (packed.to(torch.int32).unsqueeze(1) >> _shifts(grad, levels) & most).flatten()[: grad.numel()]
    wide = grad.to(compute_dtype(grad))
    low, high = levels.low, levels.high
    if levels.bits == 1:
        product = torch.where(codes == 1, wide * high, wide * low)
    else:
        product = wide * (codes.to(wide.dtype) * ((high - low) / most) + low)
    if elementwise(name).masks:
        product = torch.where(codes == 0, 0.0, product) if low == 0 else product
    return product.to(grad.dtype)


def _shifts(x: Tensor, levels: Levels) -> Tensor:
    return torch.arange(0, 8, levels.bits, device=x.device)
