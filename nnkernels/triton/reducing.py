"""softmax and its kin on GPUs: layouts and tiles for `reducing_kernels`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..broadcast import mask_layout, queries, split
from . import reducing_kernels as kernels
from .backend import _guard

_MOST_COLUMNS = 16384  # of a row in registers
_TILE = 2048  # elements of several short rows, or of a tile of columns
_LONG_TILE = 8192  # elements of a row too long for registers that are in flight


def softmax(
    x: Tensor, dim: int, log: bool, scale: float, mask: Tensor | None, causal: bool, dtype: torch.dtype
) -> Tensor:
    """As `reference.reducing.softmax`."""
    shape = x.shape
    outer, n, inner = split(shape, dim)
    x = x.to(dtype).contiguous()
    y = torch.empty_like(x)
    if y.numel() == 0:
        return y
    kind, digits, strides, dim_stride, inner_stride = 0, (1, 1, 1), (0, 0, 0), 0, 0
    given = x
    if mask is not None:
        kind = 1 if mask.dtype == torch.bool else 2
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        given, digits, strides, dim_stride, inner_stride = mask_layout(mask if kind == 1 else mask.to(wide), shape, dim)
        given = given.view(torch.uint8) if kind == 1 else given
    constants = (log, kind, causal, kind != 2 and abs(scale) != 1, scale < 0)
    places = (max(1, queries(shape, dim, causal)), digits[1], digits[2], *strides, dim_stride)
    with _guard(x.device):
        if inner == 1 and n <= _MOST_COLUMNS:
            rows, cols, num_warps = _rows(n)
            kernels.softmax_rows[(-(-outer // rows),)](
                x, y, given, outer, n, n, scale, *places, *constants, n == cols, rows, cols, num_warps=num_warps
            )
        else:
            block_n, block_inner, num_warps = _columns(n, inner)
            kernels.softmax_columns[(outer * -(-inner // block_inner),)](
                x, y, given, n, inner, n * inner, scale, *places, inner_stride, *constants, block_n >= n,
                block_n, block_inner, num_warps=num_warps,
            )  # fmt: skip
    return y


def softmax_backward(
    grad: Tensor, y: Tensor, dim: int, log: bool, scale: float, causal: bool, masked: bool, dtype: torch.dtype
) -> Tensor:
    """As `reference.reducing.softmax_backward`."""
    outer, n, inner = split(y.shape, dim)
    grad, y = grad.contiguous(), y.contiguous()
    grad_x = torch.empty_like(y)
    if y.numel() == 0:
        return grad_x.to(dtype)
    with _guard(y.device):
        if inner == 1 and n <= _MOST_COLUMNS:
            rows, cols, num_warps = _rows(n)
            kernels.backward_rows[(-(-outer // rows),)](
                grad, y, grad_x, outer, n, scale, log, masked, n == cols, rows, cols, num_warps=num_warps
            )
        else:
            block_n, block_inner, num_warps = _columns(n, inner)
            kernels.backward_columns[(outer * -(-inner // block_inner),)](
                grad, y, grad_x, n, inner, scale, log, masked, block_n, block_inner, num_warps=num_warps
            )
    return grad_x.to(dtype)


def _rows(n: int) -> tuple[int, int, int]:
    """Rows and columns of a tile, and its warps: 16 to 32 elements for each thread."""
    cols = max(16, 1 << (n - 1).bit_length())
    return max(1, _TILE // cols), cols, max(4, cols // 1024)


def _columns(n: int, inner: int) -> tuple[int, int, int]:
    if inner == 1:
        return _LONG_TILE, 1, 8
    block_inner = min(128, max(8, 1 << (inner - 1).bit_length()))
    return max(1, min(_TILE // block_inner, 1 << (n - 1).bit_length())), block_inner, 4
