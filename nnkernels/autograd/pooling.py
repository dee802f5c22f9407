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
from .context import is_plain_call


class _Frame(NamedTuple):
    """The input as `rows` x `pieces` x `inner` adjacent elements."""

    order: tuple[int, ...]  # the dimensions as they lie in memory
    outer: tuple[int, ...]  # sizes in that order, before the pooled dimension
    groups: int
    pieces: int
    after: tuple[int, ...]

    @property
    def rows(self) -> int:
        return prod(self.outer) * self.groups

    @property
    def inner(self) -> int:
        return prod(self.after)

    def empty(self, like: Tensor, channels: int) -> Tensor:
        """Memory for an input or output; not a view, which a user could not write in place after a Function."""
        sizes = (*self.outer, channels, *self.after)
        shape, strides, step = [0] * len(sizes), [0] * len(sizes), 1
        for dim, size in zip(reversed(self.order), reversed(sizes), strict=True):
            shape[dim], strides[dim] = size, step
            step *= max(size, 1)
        return torch.empty_strided(shape, strides, dtype=like.dtype, device=like.device)

    def input(self, x: Tensor) -> Tensor:
        return x.permute(self.order).reshape(self.rows, self.pieces, self.inner)

    def output(self, y: Tensor) -> Tensor:
        return y.permute(self.order).reshape(self.rows, self.inner)

    def restored(self, x: Tensor) -> Tensor:
        """The inverse of `input`."""
        sizes = (*self.outer, self.groups * self.pieces, *self.after)
        return x.reshape(sizes).permute([self.order.index(axis) for axis in range(len(sizes))])


def _frame(x: Tensor, pieces: int, dim: int) -> _Frame:
    order = reference.memory_order(x)
    sizes, at = tuple(x.shape[axis] for axis in order), order.index(dim)
    return _Frame(order, sizes[:at], sizes[at] // pieces, pieces, sizes[at + 1 :])


def call(x: Tensor, pieces: int, dim: int) -> Tensor:
    """Maxout of checked arguments; `dim` is not negative."""
    if pieces == 1:
        return x.clone()
    if not is_plain_call(x):
        return reference.composed(x, pieces, dim)
    kernels = dispatch.kernels("pooling", x)
    if pieces > reference.MOST_PIECES:
        if dispatch.chosen() not in ("auto", "reference"):
            raise RuntimeError(
                f"nnkernels.backend({dispatch.chosen()!r}) cannot serve maxout of {tuple(x.shape)} with {pieces} pieces: "
                f"its kernels take up to {reference.MOST_PIECES}, more are torch operations"
            )
        return reference.composed(x, pieces, dim)
    frame = _frame(x, pieces, dim)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Maxout.apply(x, frame, kernels)
    y = frame.empty(x, frame.groups)
    kernels.maxout(frame.input(x).contiguous(), frame.output(y), None)
    return y


class _Maxout(Function):
    @staticmethod
    def forward(ctx, x, frame, kernels):  # type: ignore[override]
        y = frame.empty(x, frame.groups)
        winners = torch.empty(reference.packed_bytes(y.numel(), frame.pieces), dtype=torch.uint8, device=x.device)
        kernels.maxout(frame.input(x).contiguous(), frame.output(y), winners)
        ctx.save_for_backward(winners)
        ctx.constants = (frame, kernels)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        (winners,) = ctx.saved_tensors
        frame, kernels = ctx.constants
        if torch.is_grad_enabled() or not is_plain_call(grad, winners):
            return frame.restored(reference.scattered(frame.output(grad), winners, frame.pieces)), None, None
        grad_x = frame.empty(grad, frame.groups * frame.pieces)
        kernels.maxout_backward(frame.output(grad).contiguous(), winners, frame.input(grad_x))
        return grad_x, None, None
