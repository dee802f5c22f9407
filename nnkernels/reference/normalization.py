"""Layer and rms norm, residual and activation in torch operations: the truth, and the route that no kernel can follow.

A row is what is normalised together. Its statistics are kept in float32 for 16-bit types and in float64 for the others:
in float32 the mean of float32 numbers would lose as many digits as it is larger than their spread.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts.inner import Inner
from ..contracts.normalization import statistics_dtype
from ..registry import IDENTITY, elementwise
from . import FORMULAS, compute_dtype, rounded


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
    y, *statistics = _composed(inner, x, 1, residual, weight, bias, eps, centred, dtype)
    return y, torch.stack(statistics).squeeze(-1).to(statistics_dtype(x))


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
    wide = compute_dtype(x)
    *mean, deviation = statistics.to(wide).unsqueeze(-1)
    normalised = (x.to(wide) - (mean[0] if mean else 0.0)) * deviation
    grad = grad.to(wide)
    if inner.name != IDENTITY.name:
        slope = FORMULAS[inner.name].d1(_affine(normalised, residual, weight, bias), *rounded(x, inner.a, inner.b))
        grad = grad * slope
        if elementwise(inner.name).masks:
            grad = torch.where(slope == 0, 0.0, grad)
    weighted = grad if weight is None else grad * weight.to(wide)
    grad_x = weighted - normalised * (weighted * normalised).mean(1, keepdim=True)
    if mean:
        grad_x = grad_x - weighted.mean(1, keepdim=True)
    return (
        (grad_x * deviation).to(x.dtype),
        grad.to(x.dtype) if wants_residual and inner.name != IDENTITY.name else None,
        (grad * normalised).sum(0).to(weight.dtype) if wants_parameters and weight is not None else None,
        grad.sum(0).to(bias.dtype) if wants_parameters and bias is not None else None,
    )


def composed(
    inner: Inner,
    x: Tensor,
    dims: int,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    centred: bool,
    dtype: torch.dtype,
) -> Tensor:
    """The value for a tensor of any shape, whose last `dims` dimensions are a row."""
    return _composed(inner, x, dims, residual, weight, bias, eps, centred, dtype)[0]


def _composed(
    inner: Inner,
    x: Tensor,
    dims: int,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    centred: bool,
    dtype: torch.dtype,
) -> list[Tensor]:
    """The value, the mean if centred, and 1 / deviation."""
    along = tuple(range(-dims, 0))
    z = x.to(compute_dtype(x))
    statistics = []
    if centred:
        statistics.append(z.mean(along, keepdim=True))
        z = z - statistics[0]
    statistics.append(torch.rsqrt(z.square().mean(along, keepdim=True) + eps))
    z = _affine(z * statistics[-1], residual, weight, bias)
    return [FORMULAS[inner.name].value(z, *rounded(x, inner.a, inner.b)).to(dtype), *statistics]


def _affine(normalised: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """The activation's argument."""
    z = normalised if weight is None else normalised * weight.to(normalised.dtype)
    for addend in (bias, residual):
        if addend is not None:
            z = z + addend.to(z.dtype)
    return z
