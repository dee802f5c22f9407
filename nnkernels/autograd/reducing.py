"""The routes from a call of softmax or log_softmax to its kernels.

a plain call                      `_Softmax`, a ctx-style Function that keeps the output only, or the bare kernel
a compiler, a transform, a mode,  the reference's torch operations
a mask that wants a gradient
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from .. import _torch, dispatch
from ..reference import reducing as reference
from . import sharded
from .context import is_plain_call

_LEAST_SCALE, _GREATEST_SCALE = 1e-30, 1e30


def softmax(
    x: Tensor, dim: int, log: bool, scale: float, mask: Tensor | None, causal: bool, dtype: torch.dtype | None
) -> Tensor:
    """The (log-)softmax of `x` along `dim` (not negative), in `dtype` or the type that autocast and torch would
    give."""
    if dtype is None:
        casts = x.device.type == "cuda" and x.dtype != torch.float64 and _torch.autocasts("cuda")
        dtype = torch.float32 if casts else x.dtype
    records = torch.is_grad_enabled()
    if (
        not is_plain_call(x, mask)
        or (mask is not None and records and mask.requires_grad)
        or not _LEAST_SCALE < abs(scale) < _GREATEST_SCALE
    ):
        if sharded.serves(x, mask):
            whole = [dim - 1, dim] if causal else [dim]
            return sharded.locally(
                lambda x, mask: softmax(x, dim, log, scale, mask, causal, dtype), x, [_masking(x, mask)], whole
            )
        return reference.softmax(x, dim, log, scale, mask, causal, dtype)
    if records and x.requires_grad:
        return _Softmax.apply(x, mask, dim, log, scale, causal, dtype)
    return dispatch.kernels("reducing", x).softmax(x, dim, log, scale, mask, causal, dtype)


def _masking(x: Tensor, mask: Tensor | None) -> sharded.Operand:
    """A mask that broadcasts to `x`, dimensions of size 1 running along none of `x`'s."""
    if mask is None:
        return None, ()
    first = x.dim() - mask.dim()
    return mask, [None if size == 1 else first + d for d, size in enumerate(mask.shape)]


class _Softmax(Function):
    @staticmethod
    def forward(ctx, x, mask, dim, log, scale, causal, dtype):  # type: ignore[override]
        y = dispatch.kernels("reducing", x).softmax(x, dim, log, scale, mask, causal, dtype)
        ctx.save_for_backward(y)
        ctx.constants = (dim, log, scale, causal, mask is not None or causal, x.dtype)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        (y,) = ctx.saved_tensors
        # The output leads back to this node, so torch operations on it are differentiable to any order.
        differentiable = torch.is_grad_enabled() and (grad.requires_grad or y.requires_grad)
        plain = not differentiable and is_plain_call(grad, y)
        kernels = dispatch.kernels("reducing", y) if plain else reference
        return kernels.softmax_backward(grad, y, *ctx.constants), None, None, None, None, None, None
