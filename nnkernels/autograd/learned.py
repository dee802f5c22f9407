"""The routes of the activations with learned parameters: kernels for a plain call, torch operations for every other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.autograd import Function

from .. import dispatch
from ..reference import learned as reference
from .context import differentiable_gradients, is_plain_call


def call(name: str, x: Tensor, parameters: Sequence[Tensor], inplace: bool = False) -> Tensor:
    """The activation called `name` at `x`, whose parameters are single or one for each channel."""
    if not is_plain_call(x, *parameters):
        y = reference.evaluate(name, x, *parameters)
        return x.copy_(y) if inplace else y
    kernels = dispatch.kernels("learned", x)
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *parameters))):
        return kernels.forward(name, x, parameters, x if inplace else None)
    if inplace:
        return x.copy_(_Learned.apply(name, kernels, x.clone(), *parameters))
    return _Learned.apply(name, kernels, x, *parameters)


class _Learned(Function):
    @staticmethod
    def forward(ctx, name, kernels, x, *parameters):  # type: ignore[override]
        ctx.save_for_backward(x, *parameters)
        ctx.name, ctx.kernels = name, kernels
        return kernels.forward(name, x, parameters)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        x, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled() or not is_plain_call(grad, x, *parameters):
            found = differentiable_gradients(partial(reference.evaluate, ctx.name), (x, *parameters), grad)
            return None, None, *found
        for_parameters = any(ctx.needs_input_grad[3:])
        grad_x, for_each = ctx.kernels.backward(ctx.name, grad, x, parameters, for_parameters)
        return None, None, grad_x, *(for_each if for_parameters else [None] * len(parameters))
