"""The routes of bias + activation + dropout + residual. Backward keeps the input, the bias and the seed.

Under torch.compile Inductor fuses the composition, unless dropout draws on a GPU: then it calls `fused_ops`.
"""

from __future__ import annotations

import math
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd import Function

from .. import dispatch
from ..fusing import Inner
from ..reference import fused as reference
from ..reference.fused import ALONG_COLS, ALONG_NOTHING, ALONG_ROWS, Matrix
from ..registry import IDENTITY
from . import sharded
from .context import compiles_kernels, differentiable_gradients, is_plain_call, save, saved
from .random import _draw_seed
from .saving import is_dense


def call(inner: Inner, x: Tensor, bias: Tensor | None, dim: int | None, residual: Tensor | None, p: float) -> Tensor:
    """dropout(f(x + bias)) + residual; `bias` has one dimension, dimension `dim` of x, and the residual x's shape."""
    if not is_plain_call(x, bias, residual):
        if p > 0 and compiles_kernels(x, bias, residual):
            from . import fused_ops

            return fused_ops.bias_act(x, bias, residual, _draw_seed(x), *inner, dim, p)
        if p == 0 and sharded.serves(x, bias, residual):
            return sharded.locally(
                lambda x, bias, residual: call(inner, x, bias, dim, residual, p),
                x, [(bias, [dim]), sharded.alike(x, residual)],
            )  # fmt: skip
        shape = [-1 if d == dim else 1 for d in range(x.dim())]
        return reference.composed(inner, x, None if bias is None else bias.view(shape), residual, None, p)
    kernels = dispatch.kernels("fused", x, inner.name)
    seed = _draw_seed(x) if p > 0 else None
    tensors = [tensor for tensor in (x, bias, residual) if tensor is not None]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return _BiasAct.apply(x, bias, residual, seed, inner, dim, p, kernels)
    return _forward(kernels, inner, x, bias, residual, seed, dim, p)


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


class _BiasAct(Function):
    @staticmethod
    def forward(ctx, x, bias, residual, seed, inner, dim, p, kernels):  # type: ignore[override]
        y = _forward(kernels, inner, x, bias, residual, seed, dim, p)
        save(ctx, None if inner.name == IDENTITY.name else x, bias, seed)
        ctx.constants = (inner, dim, p, y.stride(), kernels)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        x, bias, seed = saved(ctx)
        inner, dim, p, strides, kernels = ctx.constants
        wants_x, wants_bias, wants_residual = ctx.needs_input_grad[:3]
        for_residual = grad if wants_residual else None
        if not (wants_x or wants_bias):
            return None, None, for_residual, *[None] * 5
        if torch.is_grad_enabled() or not is_plain_call(grad, x, bias):
            for_x, for_bias = _differentiable(grad, x, bias, seed, inner, dim, p, strides, wants_bias)
        else:
            for_x, for_bias = _backward(kernels, grad, x, bias, seed, inner, dim, p, strides, wants_bias)
        return for_x if wants_x else None, for_bias if wants_bias else None, for_residual, *[None] * 5


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
        kept = reference._kept(seed, p, matrix).contiguous().as_strided(grad.shape, strides)

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
