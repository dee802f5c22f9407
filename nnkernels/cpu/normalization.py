"""Layer and rms norm with residual and activation in one pass each way, in C++."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..contracts.normalization import Norm, statistics_dtype, summed_dtype
from ..native import index_of
from .fused import _wide

Given = Sequence[Tensor | None]

_OPS: Any = torch.ops.nnkernels


def norm_act(
    norm: Norm,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    addend: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    of = summed_dtype(x, addend)
    if norm.dtype.itemsize > of.itemsize:  # these kernels write the type that they normalise
        total = None if addend is None else x + addend
        wide = (x if total is None else total).to(norm.dtype)
        return *norm_act(norm, wide, _as(norm.dtype, residual), weight, bias, None)[:2], total
    operands = _operands(of, (residual, addend), (weight, bias))
    y, statistics, total = _OPS.norm_forward(x, *operands, *_formula(norm), norm.eps, norm.centred)
    return y.to(norm.dtype), statistics, None if addend is None else total


def norm_act_backward(
    norm: Norm,
    grad: Tensor,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    grad_sum: Tensor | None,
    wants_residual: bool,
    wants_parameters: bool,
    also: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    dtype = x.dtype
    if statistics.dtype != statistics_dtype(x):  # forward computed in a wider type
        x, residual = x.to(grad.dtype), _as(grad.dtype, residual)
    grad, grad_sum = grad.to(x.dtype), _as(x.dtype, grad_sum)
    operands = _operands(x.dtype, (residual, grad_sum), (weight, bias))
    narrowed = None if also is None else torch.empty(x.shape, dtype=also)
    grad_x, for_residual, for_weight, for_bias = _OPS.norm_backward(
        grad, x, *operands, statistics, narrowed, *_formula(norm), wants_residual, wants_parameters
    )
    return (
        grad_x.to(dtype),
        for_residual.to(dtype) if wants_residual and not norm.is_linear else None,
        _total(for_weight).to(weight.dtype) if wants_parameters and weight is not None else None,
        _total(for_bias).to(bias.dtype) if wants_parameters and bias is not None else None,
        narrowed,
    )


def _as(dtype: torch.dtype, x: Tensor | None) -> Tensor | None:
    return x if x is None else x.to(dtype)


def _total(sums: Tensor) -> Tensor:
    """The sum over rows of partial sums, of which a vector is the only one."""
    return sums if sums.dim() == 1 else sums.sum(0)


def _operands(of: torch.dtype, matrices: Given, parameters: Given) -> list[Tensor | None]:
    """What is given, the parameters in the computing type of what is normalised."""
    return [*matrices, *(_wide(one, of) for one in parameters)]


def _formula(norm: Norm) -> tuple[int | None, bool, int, float, float, float]:
    inner = norm.inner
    return index_of(inner.name), norm.is_linear, int(norm.gates), inner.a, inner.b, norm.offset
