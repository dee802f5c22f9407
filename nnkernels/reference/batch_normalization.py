"""Normalisation over batches or groups, with activation and residual, in torch operations: the truth, and the route of
what no kernel can follow.

Statistics are four numbers for each set of elements that is normalised together, the rows of a tensor [4, sets]: COUNT,
CENTER, LOW and RSTD. The mean is CENTER + LOW, CENTER being its rounded value: x - CENTER is exact where the mean is
far greater than the spread, and what rounding took from the mean goes into the shift.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .. import _torch
from ..contracts.batch_normalization import (
    CENTER,
    COUNT,
    LOW,
    RSTD,
    Frame,
    Gather,
    Operands,
    Reduce,
    Running,
)
from ..contracts.computing import wide_dtype
from ..contracts.inner import Inner
from ..registry import elementwise
from . import FORMULAS, compute_dtype, rounded


def forward(
    inner: Inner, operands: Operands, frame: Frame, eps: float, running: Running | None, gather: Gather | None
) -> tuple[Tensor, Tensor]:
    x = operands.x
    v = _split(x, frame).to(torch.float64)
    count = frame.rows * frame.group * frame.inner
    mean = v.mean((1, 3, 4)) if count else v.new_zeros(v.shape[0], v.shape[2])
    squares = (v - mean[:, None, :, None, None]).square().sum((1, 3, 4))
    statistics = finish(mean.flatten(), squares.flatten(), count, x, eps, running, gather)
    return apply(inner, operands, frame, statistics), statistics


def finish(
    mean: Tensor,
    squares: Tensor,
    count: int,
    x: Tensor,
    eps: float,
    running: Running | None,
    gather: Gather | None,
) -> Tensor:
    """Statistics from each set's mean and sum of squares about it, in float64, over all processes if need be."""
    if gather is not None:
        center = mean.to(wide_dtype(x.dtype))
        low = mean - center
        own = torch.stack((torch.full_like(mean, count), center, low, squares)).to(center.dtype)
        return merge(gather(own), eps, running)
    return _kept(torch.full_like(mean, count), mean, squares, wide_dtype(x.dtype), eps, running)


def merge(parts: Tensor, eps: float, running: Running | None) -> Tensor:
    """Statistics of sets that lie in several parts, [4, sets, parts] (Chan, Golub & LeVeque 1979)."""
    counts, center, low, squares = parts.double().unbind()
    count = counts.sum(1)
    mean = (counts * (center + low)).sum(1) / count
    squares = (squares + counts * (center + low - mean.unsqueeze(1)).square()).sum(1)
    return _kept(count, mean, squares, parts.dtype, eps, running)


def _kept(
    count: Tensor, mean: Tensor, squares: Tensor, dtype: torch.dtype, eps: float, running: Running | None
) -> Tensor:
    if running is not None:
        update(running, mean, squares / (count - 1))
    center = mean.to(dtype)
    return torch.stack((count, center, mean - center, (squares / count + eps).rsqrt())).to(dtype)


def update(running: Running, mean: Tensor, var: Tensor) -> None:
    """Moves the running statistics towards those of a batch, `var` being unbiased."""
    for kept, found in ((running.mean, mean), (running.var, var)):
        _torch.overwrite(kept, kept * (1 - running.momentum) + found.to(kept.dtype) * running.momentum)


def fixed(running: Running, eps: float, x: Tensor) -> Tensor:
    mean = running.mean.double()
    center = mean.to(wide_dtype(x.dtype))
    rows = (torch.ones_like(mean), center, mean - center, (running.var.double() + eps).rsqrt())
    return torch.stack(rows).to(center.dtype)


def apply(inner: Inner, operands: Operands, frame: Frame, statistics: Tensor) -> Tensor:
    z, _, _ = _argument(inner, operands, frame, statistics)
    y = FORMULAS[inner.name].value(z, *rounded(operands.x, inner.a, inner.b))
    return _like(y, operands.x)


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
    z, normal, rstd = _argument(inner, operands, frame, statistics)
    slope = FORMULAS[inner.name].d1(z, *rounded(operands.x, inner.a, inner.b))
    dz = _split(grad, frame).to(z.dtype) * slope
    if elementwise(inner.name).masks:
        dz = torch.where(slope == 0, 0.0, dz)
    sums = torch.stack((dz.sum((1, 4)), (dz * normal).sum((1, 4))))
    weight = torch.ones(frame.channels, device=z.device) if operands.weight is None else operands.weight
    weight = weight.to(z.dtype).view(1, 1, *frame.split[2:4], 1)
    grad_x = dz * weight
    if not is_fixed:
        totals = (sums * weight.squeeze(-1)).sum(3)
        if reduce is not None:
            reduce(totals)
        mean, along = totals.view(2, frame.batch, 1, -1, 1, 1) / _row(statistics, COUNT, frame, z.dtype)
        grad_x = grad_x - mean - normal * along
    grad_x = _like(grad_x * rstd, operands.x)
    return grad_x, _like(dz, operands.x) if wants_residual else None, sums.sum(1).view(2, -1)


def composed(
    inner: Inner,
    operands: Operands,
    groups: int | None,
    eps: float,
    running: Running | None = None,
    statistics: Tensor | None = None,
    process_group: Any = None,
) -> Tensor:
    """The whole for tensors of any kind, differentiable to any order.

    `groups` is None for a batch. With `statistics`, [2, channels], mean and rstd are those; otherwise they are those of
    the data, of which the running ones are told.
    """
    x, residual, weight, bias = operands
    wide = compute_dtype(x)
    z = x.to(wide)
    one = [1, -1, *[1] * (x.dim() - 2)]
    if statistics is not None:
        mean, rstd = (row.to(wide).view(one) for row in statistics)
    else:
        split = z.unsqueeze(2) if groups is None else z.unflatten(1, (groups, x.shape[1] // groups))
        dims = [0, *range(2, split.dim())] if groups is None else list(range(2, split.dim()))
        mean, var, count = _moments(split, dims, process_group)
        if running is not None:
            with torch.no_grad():
                unbiased = var.flatten() * (count / (count - 1))
                update(running, mean.detach().flatten(), unbiased.detach())
        rstd = (var + eps).rsqrt()
        z = split
    z = ((z - mean) * rstd).reshape(x.shape)
    if weight is not None:
        z = z * weight.to(wide).view(one)
    if bias is not None:
        z = z + bias.to(wide).view(one)
    if residual is not None:
        z = z + residual.to(wide)
    return FORMULAS[inner.name].value(z, *rounded(x, inner.a, inner.b)).to(x.dtype)


def _moments(x: Tensor, dims: list[int], process_group: Any) -> tuple[Tensor, Tensor, Any]:
    """Mean and biased variance over `dims`, and over all processes, and of how many elements."""
    count: Any = 1
    for dim in dims:
        count = count * x.shape[dim]
    if process_group is None and type(x) is not Tensor:  # DTensors learned var_mean in torch 2.13 only
        mean = x.mean(dims, keepdim=True)
        return mean, (x - mean).square().mean(dims, keepdim=True), count
    if process_group is None:
        var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
        return mean, var, count
    total = _AllReduce.apply(x.new_full((), count), process_group)
    mean = _AllReduce.apply(x.sum(dims, keepdim=True), process_group) / total
    var = _AllReduce.apply((x - mean).square().sum(dims, keepdim=True), process_group) / total
    return mean, var, total


class _AllReduce(Function):
    """The sum over all processes; so is the gradient, of the sum of their losses."""

    @staticmethod
    def forward(ctx, x, process_group):  # type: ignore[override]
        ctx.process_group = process_group
        x = x.clone()
        torch.distributed.all_reduce(x, group=process_group)
        return x

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        return _AllReduce.apply(grad, ctx.process_group), None


def _split(x: Tensor, frame: Frame) -> Tensor:
    _, rows, channels, inner, group = frame
    strides = (rows * channels * inner, channels * inner, group * inner, inner, 1)
    return x.detach().as_strided(frame.split, strides)


def _like(y: Tensor, x: Tensor) -> Tensor:
    return y.to(x.dtype).contiguous().as_strided(x.shape, x.stride())


def _row(statistics: Tensor, row: int, frame: Frame, dtype: torch.dtype) -> Tensor:
    return statistics[row].to(dtype).view(frame.batch, 1, -1, 1, 1)


def _argument(inner: Inner, operands: Operands, frame: Frame, statistics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The activation's argument, the normalised value and 1 / the standard deviation."""
    x, residual, weight, bias = operands
    wide = torch.float64
    center, low, rstd = (_row(statistics, row, frame, wide) for row in (CENTER, LOW, RSTD))
    normal = z = ((_split(x, frame).to(wide) - center) - low) * rstd
    if weight is not None:
        z = z * weight.to(wide).view(1, 1, *frame.split[2:4], 1)
    if bias is not None:
        z = z + bias.to(wide).view(1, 1, *frame.split[2:4], 1)
    if residual is not None:
        z = z + _split(residual, frame).to(wide)
    return z, normal, rstd
