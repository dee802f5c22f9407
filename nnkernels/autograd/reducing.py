"""The routes from a call of softmax or log_softmax to its kernels.

a plain call                      `_Softmax`, a ctx-style Function that keeps the output only, or the bare kernel
a logarithm of 16 bits            `_LogSoftmax`, which keeps the input, two numbers of each row, and the mask: the
                                  output's rounding is magnified in its exponential, by |y|
a compiler, a transform, a mode,  the reference's torch operations
a mask that wants a gradient
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import Function

from .. import _torch, dispatch
from ..reference import reducing as reference
from . import sharded
from .context import is_plain_call

_16_BITS = (torch.bfloat16, torch.float16)
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
        if log and dtype in _16_BITS:
            return _LogSoftmax.apply(x.to(dtype), mask, dim, scale, causal, dtype)
        if log and x.dtype in _16_BITS and dtype == torch.float32:
            return _LogSoftmax.apply(x, mask, dim, scale, causal, dtype)
        return _Softmax.apply(x, mask, dim, log, scale, causal, dtype)
    return dispatch.kernels("reducing", x).softmax(x, dim, log, scale, mask, causal, dtype)


def _masking(x: Tensor, mask: Tensor | None) -> sharded.Operand:
    """A mask that broadcasts to `x`, dimensions of size 1 running along none of `x`'s."""
    if mask is None:
        return None, ()
    first = x.dim() - mask.dim()
    return mask, [None if size == 1 else first + d for d, size in enumerate(mask.shape)]


_Signature = list[tuple[torch.Size, torch.dtype, torch.device] | None]


def _signature(tensors: Sequence[Tensor | None]) -> _Signature:
    return [None if t is None else (t.shape, t.dtype, t.device) for t in tensors]


def _check(grad: Tensor, saved: Sequence[Tensor | None], kept: _Signature) -> None:
    """That kernels may read what they are given: a saved tensor can come back from a hook, or with other data."""
    found = _signature(saved)
    if found != kept:
        raise RuntimeError(f"softmax backward: saved tensors of {kept} came back as {found}; they must not be replaced")
    first = saved[0]
    if first is None or grad.shape != first.shape or grad.device != first.device:
        raise RuntimeError(
            f"softmax backward: a gradient of shape {tuple(grad.shape)} on {grad.device} does not fit the result"
        )


class _Softmax(Function):
    @staticmethod
    def forward(ctx, x, mask, dim, log, scale, causal, dtype):  # type: ignore[override]
        y = dispatch.kernels("reducing", x).softmax(x, dim, log, scale, mask, causal, dtype)
        ctx.save_for_backward(y)
        ctx.kept = _signature((y,))
        ctx.constants = (dim, log, scale, causal, mask is not None or causal, x.dtype)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        (y,) = ctx.saved_tensors
        _check(grad, (y,), ctx.kept)
        # The output leads back to this node, so torch operations on it are differentiable to any order.
        differentiable = torch.is_grad_enabled() and (grad.requires_grad or y.requires_grad)
        plain = not differentiable and is_plain_call(grad, y)
        kernels = dispatch.kernels("reducing", y) if plain else reference
        return kernels.softmax_backward(grad, y, *ctx.constants), None, None, None, None, None, None


class _LogSoftmax(Function):
    @staticmethod
    def forward(ctx, x, mask, dim, scale, causal, dtype):  # type: ignore[override]
        y, statistics = dispatch.kernels("reducing", x).log_softmax(x, dim, scale, mask, causal, dtype)
        ctx.save_for_backward(x, statistics, mask)
        ctx.kept = _signature((x, statistics, mask))
        ctx.constants = (dim, scale, causal)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        x, statistics, mask = ctx.saved_tensors
        _check(grad, (x, statistics, mask), ctx.kept)
        differentiable = torch.is_grad_enabled() and (grad.requires_grad or x.requires_grad)
        plain = not differentiable and statistics is not None and is_plain_call(grad, x, mask)
        kernels = dispatch.kernels("reducing", x) if plain else reference
        dim, scale, causal = ctx.constants
        found = kernels.log_softmax_backward(grad, x, statistics, dim, scale, mask, causal)
        return found, None, None, None, None, None
