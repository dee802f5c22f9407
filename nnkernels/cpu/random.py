"""The random family's C++ kernels: results are allocated here, in PyTorch's layout or in the one that is asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts.random import line, threshold


def rrelu(x: Tensor, seed: Tensor, lower: float, upper: float, out: Tensor | None = None) -> Tensor:
    y = torch.empty_like(x) if out is None else out
    torch.ops.nnkernels.rrelu_into(y, x, seed, *line(x.dtype, lower, upper))
    return y


def rrelu_kept(x: Tensor, seed: Tensor, lower: float, upper: float) -> tuple[Tensor, Tensor]:
    y, slopes = torch.empty_like(x), torch.empty_like(x)
    torch.ops.nnkernels.rrelu_kept_into(y, slopes, x, seed, *line(x.dtype, lower, upper))
    return y, slopes


def rrelu_backward(
    grad: Tensor, x: Tensor, seed: Tensor, strides: tuple[int, ...], lower: float, upper: float
) -> Tensor:
    grad_x = torch.empty_strided(x.shape, strides, dtype=x.dtype)
    torch.ops.nnkernels.rrelu_backward_into(grad_x, grad, x, seed, *line(x.dtype, lower, upper))
    return grad_x


def rrelu_signs(x: Tensor, y: Tensor, seed: Tensor, lower: float, upper: float) -> Tensor:
    return torch.ops.nnkernels.rrelu_signs(x, y, seed, *line(x.dtype, lower, upper))


def rrelu_from_signs(grad: Tensor, packed: Tensor, seed: Tensor, lower: float, upper: float) -> Tensor:
    return torch.ops.nnkernels.rrelu_from_signs(grad, packed, seed, *line(grad.dtype, lower, upper))


def dropout(
    x: Tensor, seed: Tensor, p: float, strides: tuple[int, ...] | None = None, out: Tensor | None = None
) -> Tensor:
    y = out
    if y is None:
        y = torch.empty_like(x) if strides is None else torch.empty_strided(x.shape, strides, dtype=x.dtype)
    torch.ops.nnkernels.dropout_into(y, x, seed, threshold(p), 1 / (1 - p), None)
    return y


def dropout_kept(x: Tensor, seed: Tensor, p: float) -> tuple[Tensor, ...]:
    y, packed = torch.empty_like(x), torch.empty(-(-x.numel() // 8), dtype=torch.uint8)
    torch.ops.nnkernels.dropout_into(y, x, seed, threshold(p), 1 / (1 - p), packed)
    return y, packed


def dropout_again(grad: Tensor, p: float, strides: tuple[int, ...], seed: Tensor, *packed: Tensor) -> Tensor:
    if not packed:
        return dropout(grad, seed, p, strides)
    grad_x = torch.empty_strided(grad.shape, strides, dtype=grad.dtype)
    torch.ops.nnkernels.dropout_again_into(grad_x, grad, *packed, 1 / (1 - p))
    return grad_x


def bernoulli(x: Tensor, seed: Tensor) -> Tensor:
    y = torch.empty_like(x)
    torch.ops.nnkernels.bernoulli_into(y, x, seed)
    return y
