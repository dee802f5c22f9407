"""The routes of the gated activations: kernels for a plain call, the reference's torch operations for any other.

Backward keeps what was given, a packed tensor or gate and up, and nothing else.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor
from torch.autograd import Function

from .. import dispatch
from ..gating import Gating
from ..reference import gated as reference
from . import jagged, sharded
from .context import differentiable_gradients, is_plain_call, save, saved


def call(gating: Gating, input: Tensor, up: Tensor | None) -> Tensor:
    """The gated activation of checked arguments."""
    if not is_plain_call(input, up):
        if sharded.serves(input, up):
            whole = [gating.dim] if up is None else []
            return sharded.locally(lambda *parts: call(gating, *parts), input, [sharded.alike(input, up)], whole)
        if up is None and jagged.serves(input) and gating.dim in (-1, input.dim() - 1):
            return jagged.together(lambda values: call(gating._replace(dim=-1), values, None), input)
        return reference.gated(gating, input, up)
    kernels = dispatch.kernels("gated", input, gating.activation)
    if torch.is_grad_enabled() and (input.requires_grad or (up is not None and up.requires_grad)):
        return _Gated.apply(input, up, gating, kernels)
    return kernels.gated(gating, input, up)


def _gradients(
    gating: Gating, kernels: ModuleType, grad: Tensor, input: Tensor, up: Tensor | None
) -> tuple[Tensor | None, ...]:
    if not torch.is_grad_enabled() and is_plain_call(grad, input, up):
        return kernels.gated_backward(gating, grad, input, up)
    inputs = [input] if up is None else [input, up]
    found = differentiable_gradients(lambda *tensors: reference.gated(gating, *tensors), inputs, grad)
    return (*found, None)[:2]


class _Gated(Function):
    @staticmethod
    def forward(ctx, input, up, gating, kernels):  # type: ignore[override]
        save(ctx, *([input] if up is None else [input, up]))
        ctx.constants = (gating, kernels)
        return kernels.gated(gating, input, up)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        input, up = (*saved(ctx), None)[:2]
        gating, kernels = ctx.constants
        for_input, for_up = _gradients(gating, kernels, grad, input, up)
        wants_input, wants_up = ctx.needs_input_grad[:2]
        return for_input if wants_input else None, for_up if wants_up else None, None, None
