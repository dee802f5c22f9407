"""The form bias + activation + dropout + residual. Backward keeps the input, the bias and the seed.

Under torch.compile Inductor fuses the composition, unless dropout draws on a GPU: then it calls `fused_ops`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..contracts.fused import ALONG_COLS, ALONG_NOTHING, ALONG_ROWS, Matrix
from ..fusing import Inner
from ..reference import fused as reference
from ..registry import IDENTITY
from . import route, sharded
from .context import compiles_kernels, differentiable_gradients
from .random import _draw_seed
from .route import Gradients
from .saving import is_dense


class _Call(NamedTuple):
    inner: Inner
    dim: int | None
    p: float
    strides: tuple[int, ...] | None = None
    """Of the output, for backward."""


def call(inner: Inner, x: Tensor, bias: Tensor | None, dim: int | None, residual: Tensor | None, p: float) -> Tensor:
    """dropout(f(x + bias)) + residual; `bias` has one dimension, dimension `dim` of x, and the residual x's shape."""
    return route.call(_BIAS_ACT, _Call(inner, dim, p), x, bias, residual)


def lie_of(x: Tensor, dim: int | None) -> Matrix:
    """How a dense `x` lies in memory, its channels being dimension `dim`."""
    if dim is None:
        return Matrix(1, x.numel(), ALONG_NOTHING, 0)
    if dim == x.dim() - 1 and x.is_contiguous():
        return Matrix(x.numel() // x.shape[dim], x.shape[dim], ALONG_COLS, x.shape[dim])
    order = sorted(range(x.dim()), key=lambda d: (-x.stride()[d], d == dim))
    sizes = [x.shape[d] for d in order]
    at = order.index(dim)
    outer, channels, inside = math.prod(sizes[:at]), sizes[at], math.prod(sizes[at + 1 :])
    if inside == 1:
        return Matrix(outer, channels, ALONG_COLS, channels)
    return Matrix(outer * channels, inside, ALONG_ROWS, channels)


def _dense(x: Tensor) -> Tensor:
    return x if x.is_contiguous() or is_dense(x) else torch.empty_like(x).copy_(x)


def _alike(x: Tensor, strides: tuple[int, ...]) -> Tensor:
    """`x`, which lies as `strides` say, or a copy that does."""
    if x.stride() == strides:
        return x
    return torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device).copy_(x)


def _as_matrix(x: Tensor, matrix: Matrix) -> Tensor:
    if x.dim() == 2 and x.shape[0] == matrix.rows and x.is_contiguous():
        return x
    return x.detach().as_strided((matrix.rows, matrix.cols), (matrix.cols, 1))


def _forward(
    kernels: ModuleType,
    inner: Inner,
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    seed: Tensor | None,
    dim: int | None,
    p: float,
) -> Tensor:
    x = _dense(x)
    if x.numel() == 0:
        return torch.empty_like(x)
    matrix = lie_of(x, dim)
    other = None if residual is None else _as_matrix(_alike(residual, x.stride()), matrix)
    y = kernels.bias_act(inner, _as_matrix(x, matrix), bias, other, p, seed, matrix)
    return y if y.shape == x.shape and x.is_contiguous() else y.as_strided(x.shape, x.stride())


class _BiasAct(route.Form):
    family = "fused"
    tensors = 3

    def activation(self, spec: _Call) -> str:
        return spec.inner.name

    def forward(self, kernels: ModuleType, spec: _Call, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        x, bias, residual = tensors
        inner, dim, p, _ = spec
        seed = _draw_seed(x) if p > 0 else None
        y = _forward(kernels, inner, x, bias, residual, seed, dim, p)
        return (y,) if seed is None else (y, seed)

    def keeps(self, spec: _Call, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        x, bias, _ = tensors
        return None if spec.inner.name == IDENTITY.name else x, bias, made[1] if spec.p > 0 else None

    def backward_spec(self, spec: _Call, tensors: Gradients, made: tuple[Tensor, ...]) -> _Call:
        return spec._replace(strides=made[0].stride())

    def backward(
        self, kernels: ModuleType, spec: _Call, wanted: tuple[bool, ...], grad: Tensor, *kept: Any
    ) -> Gradients:
        return self._found(partial(_backward, kernels), spec, wanted, grad, *kept)

    def differentiable(self, spec: _Call, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        return self._found(_differentiable, spec, wanted, grad, *kept)

    def _found(
        self, gradients: Callable[..., Any], spec: _Call, wanted: tuple[bool, ...], grad: Tensor, *kept: Any
    ) -> Gradients:
        wants_x, wants_bias, _ = wanted
        for_x = for_bias = None
        if wants_x or wants_bias:
            x, bias, seed = kept
            for_x, for_bias = gradients(grad, x, bias, seed, *spec, wants_bias)
        return for_x, for_bias, grad

    def is_made_again(self, spec: _Call, tensors: Gradients) -> bool:
        return tensors[2] is None and spec.inner.name != IDENTITY.name

    def again(self, kernels: ModuleType, spec: _Call, *kept: Any) -> Tensor:
        x, bias, seed = kept
        return _forward(kernels, spec.inner, x, bias, None, seed, spec.dim, spec.p)

    def elsewhere(self, spec: _Call, *tensors: Any) -> Tensor:
        x, bias, residual = tensors
        inner, dim, p, _ = spec
        if p > 0 and compiles_kernels(*tensors):
            from . import fused_ops

            return fused_ops.bias_act(x, bias, residual, _draw_seed(x), *inner, dim, p)
        if p == 0 and sharded.serves(*tensors):
            return sharded.locally(
                lambda x, bias, residual: call(inner, x, bias, dim, residual, p),
                x, [(bias, [dim]), sharded.alike(x, residual)],
            )  # fmt: skip
        shape = [-1 if d == dim else 1 for d in range(x.dim())]
        return reference.composed(inner, x, None if bias is None else bias.view(shape), residual, None, p)


_BIAS_ACT = _BiasAct()


def _backward(
    kernels: ModuleType,
    grad: Tensor,
    x: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    inner: Inner,
    dim: int | None,
    p: float,
    strides: tuple[int, ...],
    wants_bias: bool,
) -> tuple[Tensor, Tensor | None]:
    """The gradients of x and of the bias, from the kernels; `strides` are those of the output."""
    grad = _alike(grad, strides)
    if grad.numel() == 0:
        return torch.zeros_like(grad), None if bias is None else torch.zeros_like(bias)
    matrix = lie_of(grad, dim)
    kept = None if x is None else _as_matrix(_alike(x, strides), matrix)
    for_x, for_bias = kernels.bias_act_backward(
        inner, _as_matrix(grad, matrix), kept, bias, p, seed, matrix, wants_bias
    )
    if for_bias is not None and bias is not None:
        for_bias = for_bias.to(bias.dtype)
    return for_x.as_strided(grad.shape, strides), for_bias


def _differentiable(
    grad: Tensor,
    x: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    inner: Inner,
    dim: int | None,
    p: float,
    strides: tuple[int, ...],
    wants_bias: bool,
) -> tuple[Tensor, Tensor | None]:
    """The gradients in torch operations, with the numbers that forward drew."""
    matrix = lie_of(torch.empty_strided(grad.shape, strides, device="meta"), dim)
    shape = [-1 if d == dim else 1 for d in range(grad.dim())]
    kept = None
    if seed is not None:
        kept = reference.keeps(seed, p, matrix, grad.element_size()).contiguous().as_strided(grad.shape, strides)

    def value(x: Tensor, *biases: Tensor) -> Tensor:
        spread = biases[0].view(shape) if biases else None
        return reference.composed(inner, x, spread, None, kept, p)

    source = torch.zeros_like(grad).requires_grad_() if x is None else x
    given = [source] if bias is None else [source, bias]
    with torch.enable_grad():
        given = [tensor if tensor.requires_grad else tensor.detach().requires_grad_() for tensor in given]
    found = differentiable_gradients(value, given, grad)
    for_bias = found[1].to(bias.dtype) if bias is not None and wants_bias else None  # type: ignore[union-attr]
    return found[0], for_bias  # type: ignore[return-value]
