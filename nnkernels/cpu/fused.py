"""bias, activation, dropout and residual in one pass each way, in C++."""

from __future__ import annotations

import torch
from torch import Tensor

from ..fusing import Inner
from ..native import index_of
from ..reference.fused import Matrix
from ..reference.random import threshold


def bias_act(
    inner: Inner, x: Tensor, bias: Tensor | None, residual: Tensor | None, p: float, seed: Tensor | None, matrix: Matrix
) -> Tensor:
    return torch.ops.nnkernels.fused_forward(
        x, _wide(bias, x), _given(residual, x), _given(seed, x), *_constants(inner, p, matrix)
    )


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
    grad_x, partial = torch.ops.nnkernels.fused_backward(
        grad, _given(x, grad), _wide(bias, grad), _given(seed, grad), *_constants(inner, p, matrix), wants_bias
    )
    return grad_x, partial.sum(0) if wants_bias else None


def _constants(inner: Inner, p: float, matrix: Matrix) -> tuple[int | None, float, float, int, int, int, float]:
    index = index_of(inner.name)
    return index, inner.a, inner.b, matrix.along, matrix.channels, threshold(p), 1 / (1 - p)


def _wide(bias: Tensor | None, like: Tensor) -> Tensor:
    """The bias in the computing type."""
    wide = torch.float64 if like.dtype == torch.float64 else torch.float32
    return like.new_empty(0) if bias is None else bias.detach().to(wide)


def _given(tensor: Tensor | None, like: Tensor) -> Tensor:
    return like.new_empty(0) if tensor is None else tensor
