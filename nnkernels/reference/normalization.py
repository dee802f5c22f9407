"""Layer and rms norm, residual and activation in torch operations: the truth, and the route that no kernel can follow.

A row is what is normalised together. Its statistics are kept in float32 for 16-bit types and in float64 for the others:
in float32 the mean of float32 numbers would lose as many digits as it is larger than their spread.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts.normalization import Gate, Norm, statistics_dtype
from ..registry import elementwise
from . import FORMULAS, compute_dtype, rounded


def norm_act(
    norm: Norm,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    addend: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    total = None if addend is None else x + addend
    y, *statistics = _composed(norm, x if total is None else total, 1, residual, weight, bias)
    return y, torch.stack(statistics).squeeze(-1).to(statistics_dtype(x if total is None else total)), total


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
    wide, inner = compute_dtype(x), norm.inner
    *mean, deviation = statistics.to(wide).unsqueeze(-1)
    formula, constants = FORMULAS[inner.name], rounded(x, inner.a, inner.b)
    before = residual.to(wide) if norm.gates is Gate.BEFORE and residual is not None else None
    factor_of_x: Tensor | float = 1.0 if before is None else formula.value(before, *constants)
    normalised = (x.to(wide) * factor_of_x - (mean[0] if mean else 0.0)) * deviation
    grad = grad.to(wide)
    for_residual = None
    if not norm.is_linear and before is None:
        z = _affine(normalised, norm.offset, None if norm.gates else residual, weight, bias)
        at, factor = (z, 1.0) if residual is None or not norm.gates else (residual.to(wide), z)
        slope = formula.d1(at, *constants)
        for_residual = grad * factor * slope
        if elementwise(inner.name).masks:
            for_residual = torch.where(slope == 0, 0.0, for_residual)
        grad = grad * formula.value(at, *constants) if norm.gates else for_residual
    weighted = grad if weight is None else grad * (weight.to(wide) + norm.offset)
    grad_x = weighted - normalised * (weighted * normalised).mean(1, keepdim=True)
    if mean:
        grad_x = grad_x - weighted.mean(1, keepdim=True)
    grad_x = grad_x * deviation
    if before is not None:
        slope = formula.d1(before, *constants)
        for_residual = grad_x * x.to(wide) * slope
        if elementwise(inner.name).masks:
            for_residual = torch.where(slope == 0, 0.0, for_residual)
        grad_x = grad_x * factor_of_x
    if grad_sum is not None:
        grad_x = grad_x + grad_sum.to(wide)
    return (
        grad_x.to(x.dtype),
        for_residual.to(x.dtype) if wants_residual and for_residual is not None else None,
        (grad * normalised).sum(0).to(weight.dtype) if wants_parameters and weight is not None else None,
        grad.sum(0).to(bias.dtype) if wants_parameters and bias is not None else None,
        None if also is None else grad_x.to(also),
    )


def composed(
    norm: Norm, x: Tensor, dims: int, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    """The value for a tensor of any shape, whose last `dims` dimensions are a row."""
    return _composed(norm, x, dims, residual, weight, bias)[0]


def _composed(
    norm: Norm, x: Tensor, dims: int, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> list[Tensor]:
    """The value, the mean if centred, and 1 / deviation."""
    along, inner = tuple(range(-dims, 0)), norm.inner
    z = x.to(compute_dtype(x))
    formula, constants = FORMULAS[inner.name], rounded(x, inner.a, inner.b)
    if norm.gates is Gate.BEFORE and residual is not None:
        z = z * formula.value(residual.to(z.dtype), *constants)
    statistics = []
    if norm.centred:
        statistics.append(z.mean(along, keepdim=True))
        z = z - statistics[0]
    statistics.append(torch.rsqrt(z.square().mean(along, keepdim=True) + norm.eps))
    z = _affine(z * statistics[-1], norm.offset, None if norm.gates else residual, weight, bias)
    if norm.gates is Gate.NOWHERE:
        z = formula.value(z, *constants)
    elif norm.gates is Gate.AFTER and residual is not None:
        z = z * formula.value(residual.to(z.dtype), *constants)
    return [z.to(norm.dtype), *statistics]


def _affine(
    normalised: Tensor, offset: float, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    """The activation's argument."""
    z = normalised if weight is None else normalised * (weight.to(normalised.dtype) + offset)
    for addend in (bias, residual):
        if addend is not None:
            z = z + addend.to(z.dtype)
    return z
