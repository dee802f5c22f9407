"""The routes of layer and rms norm with residual and activation. Backward keeps the input and its rows' statistics."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.autograd import Function

from .. import dispatch
from ..fusing import Inner
from ..reference import normalization as reference
from ..registry import IDENTITY
from . import sharded
from .context import differentiable_gradients, is_plain_call, save, saved


def call(
    inner: Inner,
    x: Tensor,
    dims: int,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    centred: bool,
) -> Tensor:
    """f(norm(x) weight + bias + residual) over the last `dims` dimensions of x; the residual has x's shape and type."""
    tensors = (x, residual, weight, bias)
    if x.numel() == 0 or not is_plain_call(*tensors):
        if sharded.serves(*tensors):
            last = range(x.dim() - dims, x.dim())
            return sharded.locally(
                lambda x, residual, weight, bias: call(inner, x, dims, residual, weight, bias, eps, centred),
                x, [sharded.alike(x, residual), (weight, last), (bias, last)], last,
            )  # fmt: skip
        return reference.composed(inner, x, dims, residual, weight, bias, eps, centred)
    kernels = dispatch.kernels("normalization", x, inner.name)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        return _NormAct.apply(*tensors, inner, dims, eps, centred, kernels)
    shape = _shape(x, dims)
    y, _ = kernels.norm_act(inner, _rows(x, shape), _rows(residual, shape), _flat(weight), _flat(bias), eps, centred)
    return y if y.shape == x.shape else y.view(x.shape)


def _shape(x: Tensor, dims: int) -> tuple[int, int]:
    cols = x.shape[x.dim() - dims :].numel()
    return x.numel() // cols, cols


def _rows(x: Tensor | None, shape: tuple[int, int]) -> Tensor | None:
    """`x` as a matrix of rows of adjacent elements: itself if it lies so, whatever lies between its rows."""
    if x is None:
        return None
    if x.shape != shape:
        x = x.reshape(shape)
    return x if x.stride(1) == 1 or shape[1] == 1 else x.contiguous()


def _flat(parameter: Tensor | None) -> Tensor | None:
    if parameter is None or (parameter.dim() == 1 and parameter.is_contiguous()):
        return parameter
    return parameter.reshape(-1).contiguous()


def _shaped(found: Tensor | None, like: Tensor) -> Tensor | None:
    return found if found is None or found.shape == like.shape else found.view(like.shape)


class _NormAct(Function):
    @staticmethod
    def forward(ctx, x, residual, weight, bias, inner, dims, eps, centred, kernels):  # type: ignore[override]
        shape = _shape(x, dims)
        y, statistics = kernels.norm_act(
            inner, _rows(x, shape), _rows(residual, shape), _flat(weight), _flat(bias), eps, centred
        )
        save(ctx, x, None if inner.name == IDENTITY.name else residual, weight, bias, statistics)
        ctx.constants = (inner, dims, eps, centred, kernels)
        return _shaped(y, x)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        x, residual, weight, bias, statistics = saved(ctx)
        inner, dims, eps, centred, kernels = ctx.constants
        wants_x, wants_residual, wants_weight, wants_bias = ctx.needs_input_grad[:4]
        identity = inner.name == IDENTITY.name
        if identity and not (wants_x or wants_weight or wants_bias):
            return None, grad, *[None] * 7
        if torch.is_grad_enabled() or not is_plain_call(grad, x, residual, weight, bias):
            function = partial(_value, inner, dims, eps, centred, [t is not None for t in (residual, weight, bias)])
            given = [tensor for tensor in (x, residual, weight, bias) if tensor is not None]
            found = iter(differentiable_gradients(function, given, grad))
            for_x, for_residual, for_weight, for_bias = (
                None if tensor is None else next(found) for tensor in (x, residual, weight, bias)
            )
        else:
            shape = _shape(x, dims)
            for_x, for_residual, for_weight, for_bias = kernels.norm_act_backward(
                inner, _rows(grad, shape), _rows(x, shape), _rows(residual, shape), _flat(weight), _flat(bias),
                statistics, wants_residual, wants_weight or wants_bias,
            )  # fmt: skip
            for_x, for_residual = _shaped(for_x, x), _shaped(for_residual, x)
            for_weight, for_bias = _shaped(for_weight, weight), _shaped(for_bias, bias)
        return (
            for_x if wants_x else None,
            (grad if identity else for_residual) if wants_residual else None,
            for_weight if wants_weight else None,
            for_bias if wants_bias else None,
            *[None] * 5,
        )


def _value(inner: Inner, dims: int, eps: float, centred: bool, has: list[bool], x: Tensor, *others: Tensor) -> Tensor:
    """The value of the operands that there are."""
    left = iter(others)
    residual, weight, bias = (next(left) if there else None for there in has)
    return reference.composed(inner, x, dims, residual, weight, bias, eps, centred)
