"""The route from a call of maxout to its kernels, and what backward keeps: the packed winners, nothing else.

How winners are packed is told in `contracts/pooling.py`.
"""

from __future__ import annotations

from math import prod
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import dispatch
from ..contracts.pooling import MOST_PIECES, packed_bytes
from ..layout import empty_in, memory_order, restored
from ..reference import pooling as reference
from . import route, sharded
from .context import is_plain_call
from .route import Gradients


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
        """Memory for an input or output."""
        return empty_in(self.order, like, shape)


def _frame(x: Tensor, pieces: int, dim: int) -> _Frame:
    shape = tuple(x.shape)
    order = memory_order(x)
    following = shape[dim + 1 :] if order is None else [shape[axis] for axis in order[order.index(dim) + 1 :]]
    groups = shape[dim] // pieces
    return _Frame(pieces, prod(following), order, shape, (*shape[:dim], groups, *shape[dim + 1 :]))


def call(x: Tensor, pieces: int, dim: int) -> Tensor:
    """Maxout of checked arguments; `dim` is not negative."""
    if pieces == 1:
        return x.clone()
    if pieces > MOST_PIECES and is_plain_call(x):
        if dispatch.chosen() not in ("auto", "reference"):
            raise RuntimeError(
                f"nnkernels.backend({dispatch.chosen()!r}) cannot serve maxout of {tuple(x.shape)} with {pieces} "
                f"pieces: its kernels take up to {MOST_PIECES}, more are torch operations"
            )
        return reference.composed(x, pieces, dim)
    return route.call(_MAXOUT, (pieces, dim), x)


class _Maxout(route.Form):
    family = "pooling"
    tensors = 1

    def forward(self, kernels: ModuleType, spec: Any, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        (x,) = tensors
        frame = _frame(x, *spec)
        y = frame.empty(x, frame.out_shape)
        winners = None
        if records:
            winners = x.new_empty(packed_bytes(y.numel(), frame.pieces), dtype=torch.uint8)
        kernels.maxout(frame.memory(x), y, winners, frame.pieces, frame.inner)
        return (y,) if winners is None else (y, winners)

    def keeps(self, spec: Any, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        return made[1:]

    def backward_spec(self, spec: Any, tensors: Gradients, made: tuple[Tensor, ...]) -> _Frame:
        return _frame(tensors[0], *spec)  # type: ignore[arg-type]

    def backward(
        self, kernels: ModuleType, spec: _Frame, wanted: tuple[bool, ...], grad: Tensor, *kept: Any
    ) -> Gradients:
        grad_x = spec.empty(grad, spec.in_shape)
        kernels.maxout_backward(spec.memory(grad), kept[0], grad_x, spec.pieces, spec.inner)
        return (grad_x,)

    def differentiable(self, spec: _Frame, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        return (_differentiable(grad, kept[0], spec),)

    def elsewhere(self, spec: Any, *tensors: Any) -> Tensor:
        (x,), (pieces, dim) = tensors, spec
        if sharded.serves(x):
            return sharded.locally(lambda x: call(x, pieces, dim), x, whole=[dim])
        return reference.composed(x, pieces, dim)


_MAXOUT = _Maxout()


def _differentiable(grad: Tensor, winners: Tensor, frame: _Frame) -> Tensor:
    """The gradient in torch operations."""
    order = frame.order or tuple(range(len(frame.in_shape)))
    rows = grad.permute(order).reshape(prod(frame.out_shape) // max(frame.inner, 1), frame.inner)
    grad_x = reference.scattered(rows, winners, frame.pieces)
    return restored(grad_x.reshape([frame.in_shape[dim] for dim in order]), order)
