"""The product with a broadcast factor as a form. Backward keeps the input and the scale.

Kernels serve a scale that varies along one run of the dimensions as they lie in memory, or along two with the
broadcast ones between them: layer scales, squeeze-and-excite gates, single numbers. Others are torch operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import dispatch
from ..contracts.scaling import Frame
from ..fusing import Inner
from ..reference import scaling as reference
from . import route, sharded
from .context import differentiable_gradients, is_plain_call
from .fused import _alike, _dense
from .route import Gradients
from .saving import is_dense


class _Call(NamedTuple):
    inner: Inner
    dtype: torch.dtype
    strides: tuple[int, ...] | None = None
    """Of the output, for backward."""


def call(inner: Inner, x: Tensor, scale: Tensor, residual: Tensor | None, dtype: torch.dtype) -> Tensor:
    """x f(scale) + residual in `dtype`; the scale broadcasts to x, the residual has x's shape."""
    spec = _Call(inner, dtype)
    if x.numel() == 0:
        return _SCALE_ACT.elsewhere(spec, x, scale, residual)
    if is_plain_call(x, scale, residual) and frame_of(x.shape, _strides(x), scale.shape) is None:
        if dispatch.chosen() not in ("auto", "reference"):
            raise RuntimeError(
                f"nnkernels.backend({dispatch.chosen()!r}) cannot serve scale_act of {tuple(x.shape)} with a scale of "
                f"{tuple(scale.shape)}: the scale varies along dimensions that lie apart in memory, which is left to "
                "torch operations"
            )
        return reference.composed(inner, x, scale, residual, dtype)
    return route.call(_SCALE_ACT, spec, x, scale, residual)


def frame_of(shape: Sequence[int], strides: Sequence[int], scale: Sequence[int]) -> Frame | None:
    """How a dense tensor lies for a scale whose shape broadcasts to its `shape`; None if no kernel serves that.

    Example:
        >>> frame_of((2, 3, 4, 4), (48, 16, 4, 1), (2, 3, 1, 1))
        Frame(batch=1, rows=6, cols=16, by_columns=False, factors=6)
        >>> frame_of((2, 3, 4, 4), (48, 1, 12, 3), (2, 3, 1, 1))
        Frame(batch=2, rows=16, cols=3, by_columns=True, factors=6)
    """
    aligned = [1] * (len(shape) - len(scale)) + list(scale)
    order = sorted((d for d, size in enumerate(shape) if size != 1), key=lambda d: -strides[d])
    runs = [(varies, list(dims)) for varies, dims in groupby(order, lambda d: aligned[d] != 1)]
    varying = [d for varies, dims in runs if varies for d in dims]
    if varying != sorted(varying):
        return None
    factors = math.prod(aligned[d] for d in varying)
    sizes = [math.prod(shape[d] for d in dims) for _, dims in runs]
    if runs and runs[-1][0]:
        batch, rows, cols = [1] * (3 - len(sizes)) + sizes if len(sizes) <= 3 else [0] * 3
        by_columns = True
    else:
        batch, (rows, cols) = 1, [math.prod(sizes[:-1]), *(sizes[-1:] or [1])]
        by_columns = False
    return Frame(batch, rows, cols, by_columns, factors) if len(sizes) <= 3 else None


def _strides(x: Tensor) -> tuple[int, ...]:
    """Those of `_dense(x)`."""
    return x.stride() if x.is_contiguous() or is_dense(x) else torch.empty_like(x, device="meta").stride()


class _ScaleAct(route.Form):
    family = "scaling"
    tensors = 3

    def activation(self, spec: _Call) -> str:
        return spec.inner.name

    def forward(self, kernels: ModuleType, spec: _Call, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        x, scale, residual = tensors
        x = _dense(x)
        frame = frame_of(x.shape, x.stride(), scale.shape)
        added = None if residual is None else _alike(residual, x.stride())
        return (kernels.scale_act(spec.inner, x, scale.contiguous(), added, frame, spec.dtype),)

    def keeps(self, spec: _Call, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        return tensors[:2]

    def backward_spec(self, spec: _Call, tensors: Gradients, made: tuple[Tensor, ...]) -> _Call:
        return spec._replace(strides=made[0].stride())

    def backward(
        self, kernels: ModuleType, spec: _Call, wanted: tuple[bool, ...], grad: Tensor, *kept: Any
    ) -> Gradients:
        x, scale = kept
        strides = spec.strides
        assert strides is not None
        frame = frame_of(x.shape, strides, scale.shape)
        for_x = for_scale = None
        if wanted[0] or wanted[1]:
            for_x, for_scale = kernels.scale_act_backward(
                spec.inner, _alike(grad, strides), _alike(x, strides), scale.contiguous(), frame, *wanted[:2]
            )
        return for_x, for_scale, grad  # which autograd converts to the residual's type

    def differentiable(self, spec: _Call, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        value = partial(_product, spec.inner, spec.dtype)
        return *differentiable_gradients(value, kept, grad), grad

    def is_made_again(self, spec: _Call, tensors: Gradients) -> bool:
        return tensors[2] is None

    def again(self, kernels: ModuleType, spec: _Call, *kept: Any) -> Tensor:
        return self.forward(kernels, spec, False, *kept, None)[0]

    def elsewhere(self, spec: _Call, *tensors: Any) -> Tensor:
        x, scale, residual = tensors
        inner, dtype, _ = spec
        if sharded.serves(*tensors):
            offset = x.dim() - scale.dim()
            along = [offset + d if size != 1 else None for d, size in enumerate(scale.shape)]
            return sharded.locally(
                lambda x, scale, residual: call(inner, x, scale, residual, dtype),
                x, [(scale, along), sharded.alike(x, residual)],
            )  # fmt: skip
        return reference.composed(inner, x, scale, residual, dtype)


_SCALE_ACT = _ScaleAct()


def _product(inner: Inner, dtype: torch.dtype, x: Tensor, scale: Tensor) -> Tensor:
    return reference.composed(inner, x, scale, None, dtype)
