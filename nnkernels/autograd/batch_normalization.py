"""Normalisation + activation + residual over a batch or groups as a form.

Backward keeps the input and four numbers for each set of elements that is normalised together, and the residual where
the activation's derivative asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _torch
from ..fusing import Inner
from ..reference import batch_normalization as reference
from ..reference.batch_normalization import CENTER, LOW, RSTD, Frame, Operands, Running
from ..registry import IDENTITY
from . import route
from .context import differentiable_gradients
from .fused import _alike, _dense
from .route import Gradients


class _Call(NamedTuple):
    inner: Inner
    groups: int | None
    """None: over the batch."""
    training: bool
    momentum: float
    eps: float
    process_group: Any

    @property
    def frame_of(self) -> Callable[[Tensor], Frame | None]:
        return _batch_frame if self.groups is None else partial(_group_frame, self.groups)


def batch(
    inner: Inner, operands: Operands, running: Running | None, training: bool, eps: float, process_group: Any
) -> Tensor:
    """Over the batch; in evaluation by the running statistics, which training moves."""
    if not training:
        process_group = None
    mean, var, momentum = running or (None, None, 0.0)
    spec = _Call(inner, None, training, momentum, eps, process_group)
    if operands.x.numel() == 0 and process_group is None:
        y = torch.nn.functional.batch_norm(
            operands.x, mean, var, operands.weight, operands.bias, training, momentum, eps
        )
        return y if operands.residual is None else y + operands.residual
    return route.call(_NORM_ACT, spec, *operands, mean, var)


def group(inner: Inner, operands: Operands, groups: int, eps: float) -> Tensor:
    """Over the channels of a group of one sample, and whatever lies behind them."""
    if operands.x.numel() == 0:
        y = torch.nn.functional.group_norm(operands.x, groups, operands.weight, operands.bias, eps)
        return y if operands.residual is None else y + operands.residual
    return route.call(_NORM_ACT, _Call(inner, groups, True, 0.0, eps, None), *operands, None, None)


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
                if new is not kept:
                    _torch.overwrite(kept, new)
    return _lying_as(operands.x, x, y), statistics


def _lying_as(x: Tensor, dense: Tensor, y: Tensor) -> Tensor:
    """`y`, made of `dense`, as torch has what it makes of `x` lie."""
    if dense is x or y.stride() == (like := torch.empty_like(x)).stride():
        return y
    return like.copy_(y)


def _gather(process_group: Any, own: Tensor) -> Tensor:
    parts = [torch.empty_like(own) for _ in range(process_group.size())]
    torch.distributed.all_gather(parts, own, group=process_group)
    return torch.stack(parts, -1)


def _reduce(process_group: Any, totals: Tensor) -> None:
    torch.distributed.all_reduce(totals, group=process_group)


class _NormAct(route.Form):
    family = "batch_normalization"
    tensors = 6

    def shown(self, spec: _Call) -> str:
        return "BatchNormAct" if spec.groups is None else "GroupNormAct"

    def activation(self, spec: _Call) -> str:
        return spec.inner.name

    def repeats(self, spec: _Call) -> bool:
        return spec.process_group is None

    def forward(self, kernels: ModuleType, spec: _Call, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        *operands, mean, var = tensors
        running = None if mean is None else Running(mean, var, spec.momentum)
        return _forward(
            Operands(*operands),
            spec.inner,
            spec.frame_of,
            running,
            spec.training,
            spec.eps,
            spec.process_group,
            kernels,
        )

    def keeps(self, spec: _Call, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        x, residual, weight, bias, *_ = tensors
        return x, None if spec.inner.name == IDENTITY.name else residual, weight, bias, made[1]

    def backward(
        self, kernels: ModuleType, spec: _Call, wanted: tuple[bool, ...], grad: Tensor, *kept: Any
    ) -> Gradients:
        *tensors, statistics = kept
        operands = Operands(*tensors)
        dense, frame = _fit(operands, spec.frame_of)
        own = wanted[1] and spec.inner.name != IDENTITY.name
        for_x, for_residual, sums = kernels.backward(
            spec.inner,
            _alike(grad, dense.x.stride()),
            dense,
            frame,
            statistics,
            not spec.training,
            own,
            wanted[2] or wanted[3],
            None if spec.process_group is None else partial(_reduce, spec.process_group),
        )
        for_bias, for_weight = (None, None) if sums is None else sums
        found = (for_x, for_residual if own else grad, for_weight, for_bias)
        return *(_returned(*one) for one in zip(found, wanted[:4], operands, strict=True)), None, None

    def differentiable(self, spec: _Call, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        *tensors, statistics = kept
        operands = Operands(*tensors)
        found = _differentiable(spec, grad, operands, statistics, wanted[:4])
        return *(_returned(*one) for one in zip(found, wanted[:4], operands, strict=True)), None, None

    def is_made_again(self, spec: _Call, tensors: Gradients) -> bool:
        return tensors[1] is None or spec.inner.name != IDENTITY.name

    def again(self, kernels: ModuleType, spec: _Call, *kept: Any) -> Tensor:
        *tensors, statistics = kept
        operands = Operands(*tensors)
        dense, frame = _fit(operands, spec.frame_of)
        return _lying_as(operands.x, dense.x, kernels.apply(spec.inner, dense, frame, statistics))

    def elsewhere(self, spec: _Call, *tensors: Any) -> Tensor:
        *given, mean, var = tensors
        inner, groups, training, momentum, eps, process_group = spec
        operands = Operands(*given)
        if not training:
            wide = torch.promote_types(var.dtype, torch.float32)
            statistics = torch.stack((mean.to(wide), (var.to(wide) + eps).rsqrt()))
            return reference.composed(inner, operands, None, eps, statistics=statistics)
        running = None if mean is None else Running(mean, var, momentum)
        if groups is not None:
            return reference.composed(inner, operands, groups, eps)
        return reference.composed(inner, operands, None, eps, running, process_group=process_group)


_NORM_ACT = _NormAct()


def _returned(gradient: Tensor | None, needed: bool, like: Tensor | None) -> Tensor | None:
    if not needed or gradient is None or like is None:
        return gradient if needed else None
    return gradient.to(like.dtype)


def _differentiable(
    spec: _Call, grad: Tensor, operands: Operands, statistics: Tensor, needs: tuple[bool, ...]
) -> Gradients:
    """The gradients in torch operations."""
    kept = None if spec.training else torch.stack((statistics[CENTER] + statistics[LOW], statistics[RSTD]))
    given = {at: tensor for at, tensor in enumerate(operands) if tensor is not None}

    def value(*tensors: Tensor) -> Tensor:
        whole: list[Any] = [None] * 4
        for at, tensor in zip(given, tensors, strict=True):
            whole[at] = tensor
        return reference.composed(
            spec.inner, Operands(*whole), spec.groups, spec.eps, statistics=kept, process_group=spec.process_group
        )

    found: list[Tensor | None] = [None] * 4
    for at, gradient in zip(given, differentiable_gradients(value, list(given.values()), grad), strict=True):
        found[at] = gradient
    if needs[1] and operands.residual is None:
        found[1] = grad
    return tuple(found)
