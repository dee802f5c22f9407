"""Radial basis functions in torch operations; the formulas are told in `contracts/radial.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts.radial import Gradients
from . import base


def composed(x: Tensor, centers: Tensor, gamma: Tensor | float) -> Tensor:
    """exp(-gamma |x - c|^2) of (*, features) for each center, (*, centers), differentiable to any order.

    A compiler fuses the differences into their sum; without one they are stored.
    """
    wide = base.compute_dtype(x)
    apart = (x.to(wide).unsqueeze(-2) - centers.to(wide)).square().sum(-1)
    if isinstance(gamma, Tensor):
        gamma = gamma.to(wide)
        gamma = torch.where(gamma < 0, torch.nan, gamma)
    return torch.exp(-gamma * apart).to(x.dtype)


def gaussians(x: Tensor, centers: Tensor, gamma: Tensor | None, constant: float) -> Tensor:
    return composed(x, centers, constant if gamma is None else gamma)


def gaussians_backward(
    grad: Tensor,
    x: Tensor,
    centers: Tensor,
    gamma: Tensor | None,
    constant: float,
    wanted: tuple[bool, bool, bool],
) -> Gradients:
    wide = base.compute_dtype(x)
    each = x.new_full((1,), constant, dtype=wide) if gamma is None else gamma.to(wide)
    between = x.to(wide).unsqueeze(-2) - centers.to(wide)
    apart = between.square().sum(-1)
    weighed = grad.to(wide) * composed(x.to(wide), centers.to(wide), each)
    pull = (2 * each * weighed).unsqueeze(-1) * between
    for_gamma = -(weighed * apart).sum(0)
    return (
        -pull.sum(1).to(x.dtype) if wanted[0] else None,
        pull.sum(0).to(x.dtype) if wanted[1] else None,
        for_gamma.sum_to_size(each.shape).to(x.dtype) if wanted[2] else None,
    )
