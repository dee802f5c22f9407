"""softmax and its kin on the CPU: layouts for `torch.ops.nnkernels`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contracts.computing import wide_dtype
from ..contracts.reducing import mask_layout, queries, split
from ..layout import plan

_OPS: Any = torch.ops.nnkernels


def softmax(
    x: Tensor, dim: int, log: bool, scale: float, mask: Tensor | None, causal: bool, dtype: torch.dtype
) -> Tensor:
    return _forward(x, None, dim, log, scale, mask, causal, dtype)


def log_softmax(
    x: Tensor, dim: int, scale: float, mask: Tensor | None, causal: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    outer, _, inner = split(x.shape, dim)
    statistics = torch.empty(2, outer, inner, dtype=torch.float32, device=x.device)
    return _forward(x, statistics, dim, True, scale, mask, causal, dtype), statistics


def softmax_backward(
    grad: Tensor, y: Tensor, dim: int, log: bool, scale: float, causal: bool, masked: bool, dtype: torch.dtype
) -> Tensor:
    sizes = split(y.shape, dim)
    y = y.contiguous()
    grad_x = torch.empty_like(y)
    grad, stride = _rows(grad, y, sizes)
    _OPS.softmax_backward(grad, y, grad_x, *sizes, stride, log, scale, masked, queries(y.shape, dim, causal))
    return grad_x if y.dtype == dtype else grad_x.to(dtype)


def log_softmax_backward(
    grad: Tensor, x: Tensor, statistics: Tensor, dim: int, scale: float, mask: Tensor | None, causal: bool
) -> Tensor:
    shape = x.shape
    sizes = split(shape, dim)
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    grad, grad_stride = _rows(grad, grad_x, sizes)
    x, x_stride = _rows(x, grad_x, sizes)
    masking = _masking(mask, x, dim, torch.float32)
    strides = (grad_stride, x_stride)
    _OPS.log_softmax_backward(
        grad, x, statistics, grad_x, *sizes, *strides, scale, *masking, queries(shape, dim, causal)
    )
    return grad_x


def _forward(
    x: Tensor, statistics: Tensor | None, dim: int, log: bool, scale: float, mask: Tensor | None, causal: bool,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    shape = x.shape
    sizes = split(shape, dim)
    x = x if x.dtype == dtype else x.to(dtype)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    x, stride = _rows(x, y, sizes)
    masking = _masking(mask, x, dim, wide_dtype(dtype))
    _OPS.softmax(x, y, statistics, *sizes, stride, log, scale, *masking, queries(shape, dim, causal))
    return y


def _masking(mask: Tensor | None, x: Tensor, dim: int, wide: torch.dtype) -> tuple[Tensor | None, list[int]]:
    """The mask and its layout; one to add, which is any that is not of bools, is of type `wide`."""
    if mask is None:
        return None, []
    mask, digits, strides, *rest = mask_layout(mask if mask.dtype == torch.bool else mask.to(wide), x.shape, dim)
    return mask, [*digits, *strides, *rest]


def _rows(x: Tensor, out: Tensor, sizes: tuple[int, int, int]) -> tuple[Tensor, int]:
    """`x`, copied unless it lies as rows of `out` do, and the distance between its outer indices."""
    outer, n, inner = sizes
    if x.is_contiguous():
        return x, n * inner
    geometry = plan(x, out)
    if geometry is not None and geometry.rows == outer and geometry.cols == n * inner:
        return x, geometry.strides[0]
    return x.contiguous(), n * inner
