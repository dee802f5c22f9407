"""Normalisation + activation + residual in C++."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _torch
from ..contracts.batch_normalization import Frame, Gather, Operands, Reduce, Running
from ..contracts.inner import Inner
from ..native import index_of
from ..reference.batch_normalization import fixed, merge
from .fused import _wide

__all__ = ["apply", "backward", "fixed", "forward"]


def forward(
    inner: Inner, operands: Operands, frame: Frame, eps: float, running: Running | None, gather: Gather | None
) -> tuple[Tensor, Tensor]:
    x = operands.x
    if gather is not None:
        own = torch.ops.nnkernels.norm_statistics(x, None, None, 0.0, eps, True, frame)
        statistics = merge(gather(own), eps, running)
    elif running is None:
        statistics = torch.ops.nnkernels.norm_statistics(x, None, None, 0.0, eps, False, frame)
    else:
        moved = [_moved(kept) for kept in (running.mean, running.var)]
        statistics = torch.ops.nnkernels.norm_statistics(x, *moved, running.momentum, eps, False, frame)
        for kept, new in zip((running.mean, running.var), moved, strict=True):
            if new is not kept:
                _torch.overwrite(kept, new)
    return apply(inner, operands, frame, statistics), statistics


def _moved(running: Tensor) -> Tensor:
    """Running statistics of a type that C++ moves."""
    return running if running.dtype in (torch.float32, torch.float64) else running.float()


def apply(inner: Inner, operands: Operands, frame: Frame, statistics: Tensor) -> Tensor:
    return torch.ops.nnkernels.norm_apply(
        *_tensors(operands), statistics, index_of(inner.name), inner.a, inner.b, frame
    )


def backward(
    inner: Inner,
    grad: Tensor,
    operands: Operands,
    frame: Frame,
    statistics: Tensor,
    is_fixed: bool,
    wants_residual: bool,
    wants_parameters: bool,
    reduce: Reduce | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    x = operands.x
    grad_x = torch.empty_like(x)
    grad_residual = torch.empty_like(x) if wants_residual else None
    # In 16 bits to read x and grad again costs less than a tensor of twice their size between the two passes.
    dz = grad_x if not is_fixed and x.dtype == statistics.dtype else None
    tensors, activation = _tensors(operands), (index_of(inner.name), inner.a, inner.b)
    written = grad_x if is_fixed or dz is not None else None
    sums, totals = torch.ops.nnkernels.norm_sums(
        grad, *tensors, statistics, dz, written, grad_residual, *activation, frame
    )
    if not is_fixed:
        if reduce is not None:
            reduce(totals)
        torch.ops.nnkernels.norm_spread(
            dz, grad if dz is None else None, *tensors, statistics, totals, grad_x, *activation, frame
        )
    return grad_x, grad_residual, sums.view(2, frame.batch, -1).sum(1) if frame.batch > 1 else sums


def _tensors(operands: Operands) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    x, residual, weight, bias = operands
    return x, residual, _wide(weight, x.dtype), _wide(bias, x.dtype)
