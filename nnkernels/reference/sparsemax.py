"""Sparsemax in torch operations; the formulas are told in `contracts/sparsemax.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts.sparsemax import GRID, LEAST_HALF, LOWEST


def projected(x: Tensor, dim: int) -> Tensor:
    """Sparsemax of any tensor, differentiable to any order; the support comes from sorting, its results from a sum."""
    if x.numel() == 0:
        return x.clone()
    wide = x.to(torch.float64)
    top = wide.detach().amax(dim, keepdim=True)
    w = (wide - torch.where(top.abs() < 2, 0.0, top)).clamp(min=LOWEST)
    coarse = _coarse(w.detach())
    fine = w - coarse
    inside = _inside(coarse, fine.detach(), dim)
    count = inside.sum(dim, keepdim=True)
    sums = [torch.where(inside, part, 0.0).sum(dim, keepdim=True) for part in (coarse, fine)]
    threshold = _coarse((sums[0] - 1 + sums[1].detach()) / count)
    rest = ((sums[0] - 1 - threshold * count) + sums[1]) / count
    y = torch.where(inside, (coarse - threshold) + (fine - rest), 0.0)
    if x.dtype == torch.float16:
        y = torch.where(inside, y + (LEAST_HALF - y.detach()).clamp(min=0), 0.0)
    return (y * torch.where(top.isfinite(), 1.0, torch.nan)).to(x.dtype)


def pulled(grad: Tensor, y: Tensor, dim: int) -> Tensor:
    """The gradient of the logits, told the output; differentiable in `grad`."""
    wide, support = y.detach().to(torch.float64), y.detach() != 0
    given = torch.where(support, grad.to(torch.float64) + 0 * wide, 0.0)
    mean = given.sum(dim, keepdim=True) / support.sum(dim, keepdim=True)
    return torch.where(support, given - mean, 0.0).to(y.dtype)


def sparsemax(x: Tensor, y: Tensor, size: int, inner: int) -> None:
    y.copy_(projected(x.view(-1, size, inner), 1).view(y.shape))


def sparsemax_backward(grad: Tensor, y: Tensor, grad_x: Tensor, size: int, inner: int) -> None:
    rows = -1, size, inner
    grad_x.copy_(pulled(grad.view(rows), y.view(rows), 1).view(grad_x.shape))


def _coarse(x: Tensor) -> Tensor:
    """Multiples of 2^-22, of which sums are exact."""
    return (x + GRID) - GRID


def _inside(coarse: Tensor, fine: Tensor, dim: int) -> Tensor:
    """The support: the logits that exceed the threshold that they and all above them would have."""
    order = (coarse + fine).argsort(dim, descending=True)
    high, low = coarse.gather(dim, order), fine.gather(dim, order)
    steps = torch.ones_like(high).cumsum(dim)
    excess = (1 + steps * high - high.cumsum(dim)) + (steps * low - low.cumsum(dim))
    count = (excess > 0).sum(dim, keepdim=True)
    return torch.zeros_like(high, dtype=torch.bool).scatter(dim, order, steps <= count)
