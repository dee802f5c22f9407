"""softmax and log_softmax as forms. Backward keeps the output only, or what a logarithm of 16 bits needs instead."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _torch
from ..reference import reducing as reference
from . import route, sharded
from .route import Gradients

_16_BITS = (torch.bfloat16, torch.float16)
_LEAST_SCALE, _GREATEST_SCALE = 1e-30, 1e30


class _Softmax(NamedTuple):
    dim: int
    log: bool
    scale: float
    causal: bool
    dtype: torch.dtype


class _Backward(NamedTuple):
    dim: int
    log: bool
    scale: float
    causal: bool
    masked: bool
    dtype: torch.dtype
    """Of the input."""


def softmax(
    x: Tensor, dim: int, log: bool, scale: float, mask: Tensor | None, causal: bool, dtype: torch.dtype | None
) -> Tensor:
    """The (log-)softmax of `x` along `dim` (not negative), in `dtype` or the type that autocast and torch would
    give."""
    if dtype is None:
        casts = x.device.type == "cuda" and x.dtype != torch.float64 and _torch.autocasts("cuda")
        dtype = torch.float32 if casts else x.dtype
    spec = _Softmax(dim, log, scale, causal, dtype)
    if not _LEAST_SCALE < abs(scale) < _GREATEST_SCALE or (
        mask is not None and mask.requires_grad and torch.is_grad_enabled()
    ):
        return _KEEPS_OUTPUT.elsewhere(spec, x, mask)
    if log and x.requires_grad and (dtype in _16_BITS or (x.dtype in _16_BITS and dtype == torch.float32)):
        return route.call(_KEEPS_INPUT, spec, x.to(dtype) if dtype in _16_BITS else x, mask)
    return route.call(_KEEPS_OUTPUT, spec, x, mask)


def _masking(x: Tensor, mask: Tensor | None) -> sharded.Operand:
    """A mask that broadcasts to `x`, dimensions of size 1 running along none of `x`'s."""
    if mask is None:
        return None, ()
    first = x.dim() - mask.dim()
    return mask, [None if size == 1 else first + d for d, size in enumerate(mask.shape)]


class _Form(route.Form):
    family = "reducing"
    tensors = 2

    def shown(self, spec: _Softmax) -> str:
        return "LogSoftmax" if spec.log else "Softmax"

    def elsewhere(self, spec: _Softmax, *tensors: Any) -> Tensor:
        x, mask = tensors
        dim, log, scale, causal, dtype = spec
        if sharded.serves(x, mask):
            whole = [dim - 1, dim] if causal else [dim]
            return sharded.locally(
                lambda x, mask: softmax(x, dim, log, scale, mask, causal, dtype), x, [_masking(x, mask)], whole
            )
        return reference.softmax(x, dim, log, scale, mask, causal, dtype)


class _KeepsOutput(_Form):
    def forward(self, kernels: ModuleType, spec: _Softmax, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        x, mask = tensors
        dim, log, scale, causal, dtype = spec
        return (kernels.softmax(x, dim, log, scale, mask, causal, dtype),)

    def keeps(self, spec: _Softmax, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        return made

    def backward_spec(self, spec: _Softmax, tensors: Gradients, made: tuple[Tensor, ...]) -> _Backward:
        x, mask = tensors
        assert x is not None
        return _Backward(spec.dim, spec.log, spec.scale, spec.causal, mask is not None or spec.causal, x.dtype)

    def backward(
        self, kernels: ModuleType, spec: _Backward, wanted: tuple[bool, ...], grad: Tensor, *kept: Any
    ) -> Gradients:
        return kernels.softmax_backward(grad, kept[0], *spec), None

    def differentiable(self, spec: _Backward, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        # The output leads back to its node, so torch operations on it are differentiable to any order.
        return reference.softmax_backward(grad, kept[0], *spec), None


class _KeepsInput(_Form):
    """For logarithms of 16 bits, whose rounding the exponential magnifies: the input, two numbers a row, the mask."""

    def forward(self, kernels: ModuleType, spec: _Softmax, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        x, mask = tensors
        dim, _, scale, causal, dtype = spec
        if not records:
            return (kernels.softmax(x, dim, True, scale, mask, causal, dtype),)
        return kernels.log_softmax(x, dim, scale, mask, causal, dtype)

    def keeps(self, spec: _Softmax, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        return tensors[0], made[1], tensors[1]

    def backward(
        self, kernels: ModuleType, spec: _Softmax, wanted: tuple[bool, ...], grad: Tensor, *kept: Any
    ) -> Gradients:
        x, statistics, mask = kept
        return kernels.log_softmax_backward(grad, x, statistics, spec.dim, spec.scale, mask, spec.causal), None

    def differentiable(self, spec: _Softmax, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        x, statistics, mask = kept
        return reference.log_softmax_backward(grad, x, statistics, spec.dim, spec.scale, mask, spec.causal), None


_KEEPS_OUTPUT, _KEEPS_INPUT = _KeepsOutput(), _KeepsInput()
