"""The routes of normalisation + activation + residual.

Backward keeps the input and four numbers for each set of elements that is normalised together, and the residual where
the activation's derivative asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .. import dispatch
from ..fusing import Inner
from ..reference import batch_normalization as reference
from ..reference.batch_normalization import CENTER, LOW, RSTD, Frame, Operands, Running
from ..registry import IDENTITY
from .context import differentiable_gradients, is_plain_call, save, saved
from .fused import _alike, _dense


def batch(
    inner: Inner, operands: Operands, running: Running | None, training: bool, eps: float, process_group: Any
) -> Tensor:
    """Over the batch; in evaluation by the running statistics, which training moves."""
    x = operands.x
    if not training:
        process_group = None
    kept = () if running is None else (running.mean, running.var)
    empty = x.numel() == 0 and process_group is None
    if empty or not is_plain_call(*operands, *kept):
        return _composed(inner, operands, running, training, eps, process_group, empty)
    return _call(inner, operands, _batch_frame, running, training, eps, process_group)


def group(inner: Inner, operands: Operands, groups: int, eps: float) -> Tensor:
    """Over the channels of a group of one sample, and whatever lies behind them."""
    if operands.x.numel() == 0:
        y = torch.nn.functional.group_norm(operands.x, groups, operands.weight, operands.bias, eps)
        return y if operands.residual is None else y + operands.residual
    if not is_plain_call(*operands):
        return reference.composed(inner, operands, groups, eps)
    return _call(inner, operands, partial(_group_frame, groups), None, True, eps, None)


def _composed(
    inner: Inner,
    operands: Operands,
    running: Running | None,
    training: bool,
    eps: float,
    process_group: Any,
    empty: bool,
) -> Tensor:
    x, residual, weight, bias = operands
    if empty:
        mean, var, momentum = running or (None, None, 0.0)
        y = torch.nn.functional.batch_norm(x, mean, var, weight, bias, training, momentum, eps)
        return y if residual is None else y + residual
    if training:
        return reference.composed(inner, operands, None, eps, running, process_group=process_group)
    assert running is not None
    var = running.var.to(torch.promote_types(running.var.dtype, torch.float32))
    statistics = torch.stack((running.mean.to(var.dtype), (var + eps).rsqrt()))
    return reference.composed(inner, operands, None, eps, statistics=statistics)


def _call(
    inner: Inner,
    operands: Operands,
    frame_of: Callable[[Tensor], Frame | None],
    running: Running | None,
    training: bool,
    eps: float,
    process_group: Any,
) -> Tensor:
    kernels = dispatch.kernels("batch_normalization", operands.x, inner.name)
    rest = (inner, frame_of, running, training, eps, process_group, kernels)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in operands):
        return _NormAct.apply(*operands, *rest)
    return _forward(operands, *rest)[0]


def _batch_frame(x: Tensor) -> Frame:
    """How a dense `x` lies in memory for statistics over everything but dimension 1."""
    if x.numel() == 0:
        return Frame(1, 0, x.shape[1], 1, 1)
    if x.is_contiguous():
        return Frame(1, x.shape[0], x.shape[1], x.numel() // (x.shape[0] * x.shape[1]), 1)
    strides = x.stride()
    order = sorted(range(x.dim()), key=lambda d: (-strides[d], d == 1))
    outer, inside = _around(x, order)
    return Frame(1, outer, x.shape[1], inside, 1)


def _group_frame(groups: int, x: Tensor) -> Frame | None:
    """The same for groups of dimension 1; None unless the samples lie one behind the other."""
    samples, channels = x.shape[:2]
    strides, length = x.stride(), x.numel() // samples
    if x.is_contiguous():
        return Frame(samples, 1, channels, length // channels, channels // groups)
    if samples > 1 and strides[0] != length:
        return None
    outer, inside = _around(x, sorted(range(1, x.dim()), key=lambda d: (-strides[d], d != 1)))
    return Frame(samples, outer, channels, inside, channels // groups)


def _around(x: Tensor, order: list[int]) -> tuple[int, int]:
    """How many elements lie outside and inside of dimension 1, if the dimensions lie in that order."""
    at = order.index(1)
    return math.prod(x.shape[d] for d in order[:at]), math.prod(x.shape[d] for d in order[at + 1 :])


def _fit(operands: Operands, frame_of: Callable[[Tensor], Frame | None]) -> tuple[Operands, Frame]:
    """The tensors as they have to lie, and how they do."""
    x, residual, weight, bias = operands
    x = _dense(x)
    frame = frame_of(x)
    if frame is None:
        x = x.contiguous()
        frame = frame_of(x)
    assert frame is not None
    residual = None if residual is None else _alike(residual, x.stride())
    weight, bias = (tensor if tensor is None else tensor.contiguous() for tensor in (weight, bias))
    return Operands(x, residual, weight, bias), frame


def _forward(
    operands: Operands,
    inner: Inner,
    frame_of: Callable[[Tensor], Frame | None],
    running: Running | None,
    training: bool,
    eps: float,
    process_group: Any,
    kernels: ModuleType,
) -> tuple[Tensor, Tensor]:
    dense, frame = _fit(operands, frame_of)
    x = dense.x
    if not training:
        assert running is not None
        statistics = kernels.fixed(Running(running.mean.contiguous(), running.var.contiguous(), 0.0), eps, x)
        y = kernels.apply(inner, dense, frame, statistics)
    else:
        gather = None if process_group is None else partial(_gather, process_group)
        moved = running and Running(running.mean.contiguous(), running.var.contiguous(), running.momentum)
        y, statistics = kernels.forward(inner, dense, frame, eps, moved, gather)
        if running is not None and moved is not None:
            for kept, new in zip(running[:2], moved[:2], strict=True):
                if new is kept:
                    torch.autograd.graph.increment_version(kept)
                else:
                    kept.copy_(new)
    if x is not operands.x and y.stride() != (like := torch.empty_like(operands.x)).stride():
        y = like.copy_(y)
    return y, statistics


def _gather(process_group: Any, own: Tensor) -> Tensor:
    parts = [torch.empty_like(own) for _ in range(process_group.size())]
    torch.distributed.all_gather(parts, own, group=process_group)
    return torch.stack(parts, -1)


def _reduce(process_group: Any, totals: Tensor) -> None:
    torch.distributed.all_reduce(totals, group=process_group)


class _NormAct(Function):
    @staticmethod
    def forward(ctx, x, residual, weight, bias, inner, frame_of, running, training, eps, process_group, kernels):  # type: ignore[override]
        operands = Operands(x, residual, weight, bias)
        y, statistics = _forward(operands, inner, frame_of, running, training, eps, process_group, kernels)
        save(ctx, x, None if inner.name == IDENTITY.name else residual, weight, bias, statistics)
        ctx.constants = (inner, frame_of, training, eps, process_group, kernels)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        *tensors, statistics = saved(ctx)
        operands = Operands(*tensors)
        inner, frame_of, training, eps, process_group, kernels = ctx.constants
        needs = ctx.needs_input_grad[:4]
        if torch.is_grad_enabled() or not is_plain_call(grad, *operands):
            found = _differentiable(inner, grad, operands, frame_of, statistics, training, eps, process_group, needs)
        else:
            dense, frame = _fit(operands, frame_of)
            own = needs[1] and inner.name != IDENTITY.name
            for_x, for_residual, sums = kernels.backward(
                inner,
                _alike(grad, dense.x.stride()),
                dense,
                frame,
                statistics,
                not training,
                own,
                needs[2] or needs[3],
                None if process_group is None else partial(_reduce, process_group),
            )
            for_bias, for_weight = (None, None) if sums is None else sums
            found = (for_x, for_residual if own else grad, for_weight, for_bias)
        return *(_returned(*one) for one in zip(found, needs, operands, strict=True)), *[None] * 7


def _returned(gradient: Tensor | None, needed: bool, like: Tensor | None) -> Tensor | None:
    if not needed or gradient is None or like is None:
        return gradient if needed else None
    return gradient.to(like.dtype)


def _differentiable(
    inner: Inner,
    grad: Tensor,
    operands: Operands,
    frame_of: Callable[[Tensor], Frame | None],
    statistics: Tensor,
    training: bool,
    eps: float,
    process_group: Any,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """The gradients in torch operations."""
    groups = frame_of.args[0] if isinstance(frame_of, partial) else None
    kept = None if training else torch.stack((statistics[CENTER] + statistics[LOW], statistics[RSTD]))
    given = {at: tensor for at, tensor in enumerate(operands) if tensor is not None}

    def value(*tensors: Tensor) -> Tensor:
        whole: list[Any] = [None] * 4
        for at, tensor in zip(given, tensors, strict=True):
            whole[at] = tensor
        return reference.composed(inner, Operands(*whole), groups, eps, statistics=kept, process_group=process_group)

    found: list[Tensor | None] = [None] * 4
    for at, gradient in zip(given, differentiable_gradients(value, list(given.values()), grad), strict=True):
        found[at] = gradient
    if needs[1] and operands.residual is None:
        found[1] = grad
    return tuple(found)
