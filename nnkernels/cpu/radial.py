"""Radial basis functions in C++; what each function computes is told in `contracts/radial.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts.radial import Gradients


def gaussians(x: Tensor, centers: Tensor, gamma: Tensor | None, constant: float) -> Tensor:
    y = x.new_empty((len(x), len(centers)))
    torch.ops.nnkernels.gaussians(y, x, centers, gamma, constant)
    return y


def gaussians_backward(
    grad: Tensor,
    x: Tensor,
    centers: Tensor,
    gamma: Tensor | None,
    constant: float,
    wanted: tuple[bool, bool, bool],
) -> Gradients:
    grad_x, grad_centers, grad_gamma = (
        torch.empty_like(one) if needed and one is not None else None
        for needed, one in zip(wanted, (x, centers, gamma), strict=True)
    )
    torch.ops.nnkernels.gaussians_backward(grad, x, centers, gamma, constant, grad_x, grad_centers, grad_gamma)
    return grad_x, grad_centers, grad_gamma
