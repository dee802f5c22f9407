"""bias, activation, dropout and residual in one pass each way, in C++."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts.fused import Matrix
from ..contracts.inner import Inner
from ..contracts.random import threshold
from ..native import index_of


def bias_act(
    inner: Inner, x: Tensor, bias: Tensor | None, residual: Tensor | None, p: float, seed: Tensor | None, matrix: Matrix
) -> Tensor:
    return torch.ops.nnkernels.fused_forward(x, _wide(bias, x.dtype), residual, seed, *_constants(inner, p, matrix))


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
        grad, x, _wide(bias, grad.dtype), seed, *_constants(inner, p, matrix), wants_bias
    )
    return grad_x, partial.sum(0) if wants_bias else None


def _constants(inner: Inner, p: float, matrix: Matrix) -> tuple[int | None, float, float, int, int, int, float]:
    index = index_of(inner.name)
    return index, inner.a, inner.b, matrix.along, matrix.channels, threshold(p), 1 / (1 - p)


def _wide(parameter: Tensor | None, of: torch.dtype) -> Tensor | None:
    """The parameter in the type in which numbers of the type `of` are computed with."""
    wide = torch.float64 if of == torch.float64 else torch.float32
    return parameter if parameter is None or parameter.dtype == wide else parameter.detach().to(wide)
