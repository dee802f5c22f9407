"""softmax and its kin on the CPU: layouts for `torch.ops.nnkernels`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..broadcast import mask_layout, queries, split
from ..layout import plan

_NONE, _KEEP, _ADD = range(3)
_NO_LAYOUT = [1, 1, 1, 0, 0, 0, 0, 0]
_OPS: Any = torch.ops.nnkernels


def softmax(
    x: Tensor, dim: int, log: bool, scale: float, mask: Tensor | None, causal: bool, dtype: torch.dtype
) -> Tensor:
    """As `reference.reducing.softmax`."""
    shape = x.shape
    sizes = split(shape, dim)
    x = x if x.dtype == dtype else x.to(dtype)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    x, stride = _rows(x, y, sizes)
    kind, layout = _NONE, _NO_LAYOUT
    if mask is None:
        mask = x
    else:
        kind = _KEEP if mask.dtype == torch.bool else _ADD
        if kind == _ADD:
            mask = mask.to(torch.float64 if dtype == torch.float64 else torch.float32)
        mask, digits, strides, *rest = mask_layout(mask, shape, dim)
        layout = [*digits, *strides, *rest]
    _OPS.softmax(x, y, *sizes, stride, log, scale, mask, kind, layout, queries(shape, dim, causal))
    return y


def softmax_backward(
    grad: Tensor, y: Tensor, dim: int, log: bool, scale: float, causal: bool, masked: bool, dtype: torch.dtype
) -> Tensor:
    """As `reference.reducing.softmax_backward`."""
    sizes = split(y.shape, dim)
    y = y.contiguous()
    grad_x = torch.empty_like(y)
    grad, stride = _rows(grad, y, sizes)
    _OPS.softmax_backward(grad, y, grad_x, *sizes, stride, log, scale, masked, queries(y.shape, dim, causal))
    return grad_x if y.dtype == dtype else grad_x.to(dtype)


def _rows(x: Tensor, out: Tensor, sizes: tuple[int, int, int]) -> tuple[Tensor, int]:
    """`x`, copied unless it lies as rows of `out` do, and the distance between its outer indices."""
    outer, n, inner = sizes
    if x.is_contiguous():
        return x, n * inner
    geometry = plan(x, out)
    if geometry is not None and geometry.rows == outer and geometry.cols == n * inner:
        return x, geometry.strides[0]
    return x.contiguous(), n * inner
