"""The routes from a call of a random activation to its kernels.

A plain call draws one number from torch's generator on the tensor's device, the seed. The kernel reads it from memory,
so nothing waits for the GPU and each replay of a CUDA graph draws anew; `manual_seed`, `fork_rng` and checkpointing
govern it as they govern torch's own random functions. Backward draws the same numbers again, so it keeps the seed and,
for rrelu, the input. The order in which elements are numbered is that of the output's memory, so backward has to know
the output's strides: a hook may hand the input back in others.

Every other call (compilers, transforms, forward mode, modes, subclasses) is composed of torch's operations.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor
from torch.autograd import Function

from .. import dispatch
from ..layout import plan
from ..reference import random as reference
from .context import is_plain_call


def rrelu(x: Tensor, lower: float, upper: float, inplace: bool) -> Tensor:
    """rrelu in training."""
    if not is_plain_call(x):
        y = reference.composed_rrelu(x, lower, upper)
        return x.copy_(y) if inplace else y
    kernels, seed = dispatch.kernels("random", x), _draw_seed(x)
    if torch.is_grad_enabled() and x.requires_grad:
        return _RReLU.apply(x, seed, kernels, lower, upper, inplace)
    if not inplace:
        return kernels.rrelu(x, seed, lower, upper)
    return kernels.rrelu(x, seed, lower, upper, x) if _is_dense(x) else x.copy_(kernels.rrelu(x, seed, lower, upper))


def dropout(x: Tensor, p: float, inplace: bool) -> Tensor:
    """dropout in training, 0 < p < 1."""
    if not is_plain_call(x):
        y = reference.composed_dropout(x, p)
        return x.copy_(y) if inplace else y
    kernels, seed = dispatch.kernels("random", x), _draw_seed(x)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Dropout.apply(x, seed, kernels, p, None, inplace)
    if not inplace:
        return kernels.dropout(x, seed, p)
    return kernels.dropout(x, seed, p, out=x) if _is_dense(x) else x.copy_(kernels.dropout(x, seed, p))


def _draw_seed(x: Tensor) -> Tensor:
    return torch.randint(2**63 - 1, (), device=x.device)


def _is_dense(x: Tensor) -> bool:
    geometry = plan(x)
    return geometry is not None and geometry.rows < 2


class _RReLU(Function):
    @staticmethod
    def forward(ctx, x, seed, kernels, lower, upper, inplace):  # type: ignore[override]
        kept = x
        if inplace:
            # The slopes keep the sign, and with it all that backward reads of the input, unless one may be negative.
            kept = x if lower >= 0 else x.clone()
            y = kernels.rrelu(x, seed, lower, upper, x if _is_dense(x) else None)
            strides = y.stride()
            y = y if y is x else x.copy_(y)
            ctx.mark_dirty(y)
        else:
            y = kernels.rrelu(x, seed, lower, upper)
            strides = y.stride()
        ctx.save_for_backward(kept, seed)
        ctx.constants = (kernels, strides, lower, upper)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        return _rrelu_gradient(grad, *ctx.saved_tensors, *ctx.constants), None, None, None, None, None


class _RReLUGradient(Function):
    """Linear in `grad`, and the transpose of itself; its derivative by `x` is 0."""

    @staticmethod
    def forward(ctx, grad, x, seed, kernels, strides, lower, upper):  # type: ignore[override]
        ctx.save_for_backward(x, seed)
        ctx.constants = (kernels, strides, lower, upper)
        return kernels.rrelu_backward(grad, x, seed, strides, lower, upper)

    @staticmethod
    def backward(ctx, grad_grad):  # type: ignore[override]
        x, seed = ctx.saved_tensors
        for_grad = _rrelu_gradient(grad_grad, x, seed, *ctx.constants) if ctx.needs_input_grad[0] else None
        for_x = torch.zeros_like(x) if ctx.needs_input_grad[1] else None
        return for_grad, for_x, None, None, None, None, None


def _rrelu_gradient(
    grad: Tensor, x: Tensor, seed: Tensor, kernels: ModuleType, strides: tuple[int, ...], lower: float, upper: float
) -> Tensor:
    """The gradient for rrelu's input, itself differentiable where autograd or a transform asks for that."""
    if not is_plain_call(grad, x, seed):
        return reference.times_slopes(grad, x, seed, strides, lower, upper)
    if torch.is_grad_enabled() and (grad.requires_grad or x.requires_grad):
        return _RReLUGradient.apply(grad, x, seed, kernels, strides, lower, upper)
    return kernels.rrelu_backward(grad, x, seed, strides, lower, upper)


class _Dropout(Function):
    """Linear in `x`, and the transpose of itself: the same Function serves forward, backward and every later order."""

    @staticmethod
    def forward(ctx, x, seed, kernels, p, strides, inplace):  # type: ignore[override]
        dense = x if inplace and _is_dense(x) else None
        y = kernels.dropout(x, seed, p, strides, dense)
        ctx.save_for_backward(seed)
        ctx.constants = (kernels, p, y.stride())
        if inplace:
            y = y if y is x else x.copy_(y)
            ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        (seed,) = ctx.saved_tensors
        kernels, p, strides = ctx.constants
        if not is_plain_call(grad, seed):
            grad_x = reference.times_kept(grad, seed, strides, p)
        elif torch.is_grad_enabled() and grad.requires_grad:
            grad_x = _Dropout.apply(grad, seed, kernels, p, strides, False)
        else:
            grad_x = kernels.dropout(grad, seed, p, strides)
        return grad_x, None, None, None, None, None
