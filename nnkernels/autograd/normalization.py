"""Layer and rms norm with residual and activation as a form. Backward keeps the input and its rows' statistics."""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..fusing import Inner
from ..reference import normalization as reference
from ..registry import IDENTITY
from . import route, sharded
from .context import differentiable_gradients
from .route import Gradients


class _Norm(NamedTuple):
    inner: Inner
    dims: int
    eps: float
    centred: bool
    dtype: torch.dtype


def call(
    inner: Inner,
    x: Tensor,
    dims: int,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    centred: bool,
    dtype: torch.dtype,
) -> Tensor:
    """f(norm(x) weight + bias + residual) over the last `dims` dimensions of x, in the type `dtype`.

    The residual has x's shape and type.
    """
    spec = _Norm(inner, dims, eps, centred, dtype)
    if x.numel() == 0:
        return _NORM_ACT.elsewhere(spec, x, residual, weight, bias)
    return route.call(_NORM_ACT, spec, x, residual, weight, bias)


def _shape(x: Tensor, dims: int) -> tuple[int, int]:
    cols = x.shape[x.dim() - dims :].numel()
    return x.numel() // cols, cols


def _rows(x: Tensor | None, shape: tuple[int, int]) -> Tensor | None:
    """`x` as a matrix of rows of adjacent elements: itself if it lies so, whatever lies between its rows."""
    if x is None:
        return None
    if x.shape != shape:
        x = x.reshape(shape)
    return x if x.stride(1) == 1 or shape[1] == 1 else x.contiguous()


def _flat(parameter: Tensor | None) -> Tensor | None:
    if parameter is None or (parameter.dim() == 1 and parameter.is_contiguous()):
        return parameter
    return parameter.reshape(-1).contiguous()


def _shaped(found: Tensor | None, like: Tensor) -> Tensor | None:
    return found if found is None or found.shape == like.shape else found.view(like.shape)


class _NormAct(route.Form):
    family = "normalization"
    tensors = 4

    def activation(self, spec: _Norm) -> str:
        return spec.inner.name

    def forward(self, kernels: ModuleType, spec: _Norm, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        x, residual, weight, bias = tensors
        shape = _shape(x, spec.dims)
        y, statistics = kernels.norm_act(
            spec.inner,
            _rows(x, shape),
            _rows(residual, shape),
            _flat(weight),
            _flat(bias),
            spec.eps,
            spec.centred,
            spec.dtype,
        )
        return _shaped(y, x), statistics  # type: ignore[return-value]

    def keeps(self, spec: _Norm, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        x, residual, weight, bias = tensors
        return x, None if spec.inner.name == IDENTITY.name else residual, weight, bias, made[1]

    def backward(
        self, kernels: ModuleType, spec: _Norm, wanted: tuple[bool, ...], grad: Tensor, *kept: Any
    ) -> Gradients:
        x, residual, weight, bias, statistics = kept
        wants_x, wants_residual, wants_weight, wants_bias = wanted
        identity = spec.inner.name == IDENTITY.name
        if identity and not (wants_x or wants_weight or wants_bias):
            return None, grad.to(x.dtype), None, None
        shape = _shape(x, spec.dims)
        for_x, for_residual, for_weight, for_bias = kernels.norm_act_backward(
            spec.inner, _rows(grad, shape), _rows(x, shape), _rows(residual, shape), _flat(weight), _flat(bias),
            statistics, wants_residual, wants_weight or wants_bias,
        )  # fmt: skip
        for_residual = grad.to(x.dtype) if identity else _shaped(for_residual, x)
        return _shaped(for_x, x), for_residual, _shaped(for_weight, weight), _shaped(for_bias, bias)

    def differentiable(self, spec: _Norm, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        x, residual, weight, bias, _ = kept
        identity = spec.inner.name == IDENTITY.name
        if identity and not any((wanted[0], *wanted[2:])):
            return None, grad.to(x.dtype), None, None
        function = partial(_value, *spec, [t is not None for t in (residual, weight, bias)])
        given = [tensor for tensor in (x, residual, weight, bias) if tensor is not None]
        found = iter(differentiable_gradients(function, given, grad))
        for_x, for_residual, for_weight, for_bias = (
            None if tensor is None else next(found) for tensor in (x, residual, weight, bias)
        )
        return for_x, grad.to(x.dtype) if identity else for_residual, for_weight, for_bias

    def elsewhere(self, spec: _Norm, *tensors: Any) -> Tensor:
        x, residual, weight, bias = tensors
        inner, dims, eps, centred, dtype = spec
        if sharded.serves(*tensors):
            last = range(x.dim() - dims, x.dim())
            return sharded.locally(
                lambda x, residual, weight, bias: call(
                    inner, x, dims, residual, weight, bias, eps, centred, dtype
                ),
                x, [sharded.alike(x, residual), (weight, last), (bias, last)], last,
            )  # fmt: skip
        return reference.composed(inner, x, dims, residual, weight, bias, eps, centred, dtype)


_NORM_ACT = _NormAct()


def _value(
    inner: Inner, dims: int, eps: float, centred: bool, dtype: torch.dtype, has: list[bool], x: Tensor, *others: Tensor
) -> Tensor:
    """The value of the operands that there are."""
    left = iter(others)
    residual, weight, bias = (next(left) if there else None for there in has)
    return reference.composed(inner, x, dims, residual, weight, bias, eps, centred, dtype)
