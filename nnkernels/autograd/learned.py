"""The routes of the activations with learned parameters: kernels for a plain call, torch operations for every other.

Backward keeps the input and the parameters. A prelu whose weight requires no gradient needs one bit for each element.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd import Function

from .. import dispatch, policies
from ..reference import learned as reference
from . import recomputing, sharded
from .context import differentiable_gradients, is_plain_call, save, saved, writing
from .saving import Coding, adjacent, keep_bits


def call(
    name: str, x: Tensor, parameters: Sequence[Tensor], inplace: bool = False, policy: str | None = None
) -> Tensor:
    """The activation called `name` at `x`, whose parameters are single or one for each channel.

    Backward keeps what `policy` or else `nnkernels.saving` says.
    """
    if not is_plain_call(x, *parameters):
        given = x.clone() if inplace else x  # what follows keeps what it is given
        if sharded.serves(x, *parameters):
            operands = [(parameter, _along(name, parameter)) for parameter in parameters]
            y = sharded.locally(lambda x, *parts: call(name, x, parts, policy=policy), given, operands)
        else:
            y = reference.evaluate(name, given, *parameters)
        return x.copy_(y) if inplace else y
    kernels = dispatch.kernels("learned", x)
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *parameters))):
        if inplace:
            return writing(x, lambda: kernels.forward(name, x, parameters, x))
        return kernels.forward(name, x, parameters)
    policy = policy or policies.chosen()
    policies.check_learned(name, policy, any(parameter.requires_grad for parameter in parameters))
    if x.numel() and (policy == "bits" or policy.startswith("compressed")):
        return keep_bits(x, _coding(kernels), inplace, *parameters)
    if inplace:
        return x.copy_(_Learned.apply(name, kernels, x.clone(), *parameters))
    y = _Learned.apply(name, kernels, x, *parameters)
    if policy == "recompute":
        recomputing.remember(y, name, lambda x, *parameters: kernels.forward(name, x, parameters), x, *parameters)
    return y


def _along(name: str, parameter: Tensor) -> list[int | None]:
    """Channels, dimension 1 of the input, are a parameter's last dimension, after apl's segments."""
    segments: list[int | None] = [None] if name == "apl" else []
    channels = [1 if size > 1 else None for size in parameter.shape[len(segments) :]]
    return segments + channels


def _coding(kernels: ModuleType) -> Coding:
    """One bit for each element says whether prelu's weight, which is kept besides, is the slope there."""

    def encode(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return kernels.prelu_signs(adjacent(x), adjacent(y), weight, _run_length(x, weight))

    def decode(grad: Tensor, packed: Tensor, weight: Tensor) -> Tensor:
        return kernels.prelu_from_signs(adjacent(grad), packed, weight, _run_length(grad, weight))

    return Coding("prelu", encode, decode)


def _run_length(x: Tensor, weight: Tensor) -> int:
    """How many elements of a dense `x` that belong to one channel lie side by side."""
    return max(x.stride(1) if weight.numel() > 1 else x.numel(), 1)


class _Learned(Function):
    @staticmethod
    def forward(ctx, name, kernels, x, *parameters):  # type: ignore[override]
        save(ctx, x, *parameters)
        ctx.name, ctx.kernels = name, kernels
        return kernels.forward(name, x, parameters)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        x, *parameters = saved(ctx)
        if torch.is_grad_enabled() or not is_plain_call(grad, x, *parameters):
            found = differentiable_gradients(partial(reference.evaluate, ctx.name), (x, *parameters), grad)
            return None, None, *found
        for_parameters = any(ctx.needs_input_grad[3:])
        grad_x, for_each = ctx.kernels.backward(ctx.name, grad, x, parameters, for_parameters)
        return None, None, grad_x, *(for_each if for_parameters else [None] * len(parameters))
