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


_Kind = tuple[torch.Size, torch.dtype, torch.device]


def _kind(x: Tensor | None) -> _Kind | None:
    return None if x is None else (x.shape, x.dtype, x.device)


def _check(grad: Tensor, saved: Sequence[Tensor | None], kinds: Sequence[_Kind | None]) -> None:
    """That kernels may read what they are given: hooks and `.data =` can put other tensors in the place of saved ones.

    The first saved tensor has the result's shape.
    """
    for x, kind in zip(saved, kinds, strict=True):
        if _kind(x) != kind:
            raise RuntimeError(f"softmax's backward: {_said(kind)} was saved, but {_said(_kind(x))} came back")
    if kinds[0] is None or grad.shape != kinds[0][0] or grad.device != kinds[0][2]:
        raise RuntimeError(f"softmax's backward: {_said(_kind(grad))} is no gradient for {_said(kinds[0])}")


def _said(kind: _Kind | None) -> str:
    return "nothing" if kind is None else f"{kind[1]} of shape {tuple(kind[0])} on {kind[2]}"


class _Softmax(Function):
    @staticmethod
    def forward(ctx, x, mask, dim, log, scale, causal, dtype):  # type: ignore[override]
        y = dispatch.kernels("reducing", x).softmax(x, dim, log, scale, mask, causal, dtype)
        ctx.save_for_backward(y)
        ctx.kinds = (_kind(y),)
        ctx.constants = (dim, log, scale, causal, mask is not None or causal, x.dtype)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        (y,) = ctx.saved_tensors
        _check(grad, (y,), ctx.kinds)
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
        ctx.kinds = (_kind(x), _kind(statistics), _kind(mask))
        ctx.constants = (dim, scale, causal)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        x, statistics, mask = ctx.saved_tensors
        _check(grad, (x, statistics, mask), ctx.kinds)
        differentiable = torch.is_grad_enabled() and (grad.requires_grad or x.requires_grad)
        plain = not differentiable and statistics is not None and is_plain_call(grad, x, mask)
        kernels = dispatch.kernels("reducing", x) if plain else reference
        dim, scale, causal = ctx.constants
        found = kernels.log_softmax_backward(grad, x, statistics, dim, scale, mask, causal)
        return found, None, None, None, None, None
