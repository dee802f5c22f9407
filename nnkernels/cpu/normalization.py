"""Layer and rms norm with residual and activation in one pass each way, in C++."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contracts.inner import Inner
from ..contracts.normalization import statistics_dtype
from ..native import index_of
from ..registry import IDENTITY
from .fused import _wide

_OPS: Any = torch.ops.nnkernels


def norm_act(
    inner: Inner,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    centred: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    if dtype.itemsize > x.element_size():  # these kernels write the type that they read
        x, residual = x.to(dtype), None if residual is None else residual.to(dtype)
    y, statistics = _OPS.norm_forward(x, *_operands(x, residual, weight, bias), *_formula(inner), eps, centred)
    return y.to(dtype), statistics


def norm_act_backward(
    inner: Inner,
    grad: Tensor,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    wants_residual: bool,
    wants_parameters: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    dtype = x.dtype
    if statistics.dtype != statistics_dtype(x):  # forward computed in a wider type
        x, residual = x.to(grad.dtype), None if residual is None else residual.to(grad.dtype)
    grad = grad.to(x.dtype)
    operands = _operands(x, residual, weight, bias)
    grad_x, for_residual, for_weight, for_bias = _OPS.norm_backward(
        grad, x, *operands, statistics, *_formula(inner), wants_residual, wants_parameters
    )
    return (
        grad_x.to(dtype),
        for_residual.to(dtype) if wants_residual and inner.name != IDENTITY.name else None,
        _total(for_weight).to(weight.dtype) if wants_parameters and weight is not None else None,
        _total(for_bias).to(bias.dtype) if wants_parameters and bias is not None else None,
    )


def _total(sums: Tensor) -> Tensor:
    """The sum over rows of partial sums, of which a vector is the only one."""
    return sums if sums.dim() == 1 else sums.sum(0)


def _operands(x: Tensor, residual: Tensor | None, *parameters: Tensor | None) -> list[Tensor | None]:
    """The operands, parameters in the computing type."""
    return [residual, *(_wide(one, x) for one in parameters)]


def _formula(inner: Inner) -> tuple[int | None, bool, float, float]:
    return index_of(inner.name), inner.name == IDENTITY.name, inner.a, inner.b
