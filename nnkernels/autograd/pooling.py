"""The route from a call of maxout to its kernels, and what backward keeps: the packed winners, nothing else.

How winners are packed is told in `reference/pooling.py`.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from .. import dispatch
from ..reference import pooling as reference
from . import sharded
from .context import is_plain_call, save, saved


class _Frame(NamedTuple):
    """The input as rows x `pieces` x `inner` adjacent elements, its dimensions in the `order` of memory."""

    pieces: int
    inner: int
    order: tuple[int, ...] | None  # None: as they are
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]

    def memory(self, x: Tensor) -> Tensor:
        """The elements of an input or output in the order of memory; a copy only if they do not lie so."""
        return x.contiguous() if self.order is None else x.permute(self.order).contiguous()

    def empty(self, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Memory for an input or output; not a view, which a user could not write in place after a Function."""
        if self.order is None:
            return like.new_empty(shape)
        strides, step = [0] * len(shape), 1
        for dim in reversed(self.order):
            strides[dim] = step
            step *= max(shape[dim], 1)
        return like.new_empty_strided(shape, strides)


def _frame(x: Tensor, pieces: int, dim: int) -> _Frame:
    shape = tuple(x.shape)
    order = reference.memory_order(x)
    following = shape[dim + 1 :] if order is None else [shape[axis] for axis in order[order.index(dim) + 1 :]]
    groups = shape[dim] // pieces
    return _Frame(pieces, prod(following), order, shape, (*shape[:dim], groups, *shape[dim + 1 :]))


def call(x: Tensor, pieces: int, dim: int) -> Tensor:
    """Maxout of checked arguments; `dim` is not negative."""
    if pieces == 1:
        return x.clone()
    if not is_plain_call(x):
        if sharded.serves(x):
            return sharded.locally(lambda x: call(x, pieces, dim), x, whole=[dim])
        return reference.composed(x, pieces, dim)
    kernels = dispatch.kernels("pooling", x)
    if pieces > reference.MOST_PIECES:
        if dispatch.chosen() not in ("auto", "reference"):
            raise RuntimeError(
                f"nnkernels.backend({dispatch.chosen()!r}) cannot serve maxout of {tuple(x.shape)} with {pieces} "
                f"pieces: its kernels take up to {reference.MOST_PIECES}, more are torch operations"
            )
        return reference.composed(x, pieces, dim)
    frame = _frame(x, pieces, dim)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Maxout.apply(x, frame, kernels)
    y = frame.empty(x, frame.out_shape)
    kernels.maxout(frame.memory(x), y, None, frame.pieces, frame.inner)
    return y


class _Maxout(Function):
    @staticmethod
    def forward(ctx, x, frame, kernels):  # type: ignore[override]
        y = frame.empty(x, frame.out_shape)
        winners = x.new_empty(reference.packed_bytes(y.numel(), frame.pieces), dtype=torch.uint8)
        kernels.maxout(frame.memory(x), y, winners, frame.pieces, frame.inner)
        save(ctx, winners)
        ctx.constants = (frame, kernels)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        (winners,) = saved(ctx)
        frame, kernels = ctx.constants
        if torch.is_grad_enabled() or not is_plain_call(grad):
            return _differentiable(grad, winners, frame), None, None
        grad_x = frame.empty(grad, frame.in_shape)
        kernels.maxout_backward(frame.memory(grad), winners, grad_x, frame.pieces, frame.inner)
        return grad_x, None, None


def _differentiable(grad: Tensor, winners: Tensor, frame: _Frame) -> Tensor:
    """The gradient in torch operations."""
    order = frame.order or tuple(range(len(frame.in_shape)))
    rows = grad.permute(order).reshape(prod(frame.out_shape) // max(frame.inner, 1), frame.inner)
    grad_x = reference.scattered(rows, winners, frame.pieces)
    return reference.restored(grad_x.reshape([frame.in_shape[dim] for dim in order]), order)
