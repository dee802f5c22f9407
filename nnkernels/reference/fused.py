"""bias, activation, dropout and residual in torch operations: the truth, and the route of what no kernel can follow."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts.fused import ALONG_COLS, Matrix
from ..contracts.inner import Inner
from ..contracts.random import threshold
from ..registry import elementwise
from . import FORMULAS, compute_dtype, rounded
from .random import words


def bias_act(
    inner: Inner, x: Tensor, bias: Tensor | None, residual: Tensor | None, p: float, seed: Tensor | None, matrix: Matrix
) -> Tensor:
    kept = None if seed is None else keeps(seed, p, matrix, x.element_size())
    return composed(inner, x, _spread(bias, matrix), residual, kept, p)


def bias_act_backward(
    inner: Inner,
    grad: Tensor,
    x: Tensor | None,
    bias: Tensor | None,
    p: float,
    seed: Tensor | None,
    matrix: Matrix,
    wants_bias: bool,
) -> tuple[Tensor, Tensor | None]:
    wide = compute_dtype(grad)
    grad_x = grad.to(wide)
    if seed is not None:
        grad_x = grad_x * (keeps(seed, p, matrix, grad.element_size()).to(wide) * (1 / (1 - p)))
    if x is not None:
        spread = _spread(bias, matrix)
        z = x.to(wide) if spread is None else x.to(wide) + spread.to(wide)
        slope = FORMULAS[inner.name].d1(z, *rounded(x, inner.a, inner.b))
        grad_x = grad_x * slope
        if elementwise(inner.name).masks:
            grad_x = torch.where(slope == 0, 0.0, grad_x)
    if not wants_bias:
        return grad_x.to(grad.dtype), None
    sums = grad_x.sum(0) if matrix.along == ALONG_COLS else grad_x.sum(1).view(-1, matrix.channels).sum(0)
    return grad_x.to(grad.dtype), sums


def composed(
    inner: Inner, x: Tensor, bias: Tensor | None, residual: Tensor | None, kept: Tensor | None, p: float
) -> Tensor:
    """The same for tensors of any shape, a bias that broadcasts, and where to keep (None: torch's dropout decides)."""
    wide = compute_dtype(x)
    z = x.to(wide) if bias is None else x.to(wide) + bias.to(wide)
    y = FORMULAS[inner.name].value(z, *rounded(x, inner.a, inner.b))
    if kept is not None:
        y = y * (kept.to(wide) * (1 / (1 - p)))
    elif p > 0:
        y = y * ((torch.rand_like(y) >= p).to(wide) * (1 / (1 - p)))
    if residual is not None:
        y = y + residual.to(wide)
    return y.to(x.dtype)


def _spread(bias: Tensor | None, matrix: Matrix) -> Tensor | None:
    if bias is None or matrix.along == ALONG_COLS:
        return bias
    return bias.repeat(matrix.rows // matrix.channels).unsqueeze(1)


def keeps(seed: Tensor, p: float, matrix: Matrix, size: int) -> Tensor:
    """Which elements of `size` bytes dropout keeps."""
    drawn = words(seed, matrix.rows * matrix.padded, size)
    return (drawn.view(matrix.rows, matrix.padded) >= threshold(p))[:, : matrix.cols]
