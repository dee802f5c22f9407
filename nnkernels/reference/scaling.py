"""The product with a broadcast factor in torch operations: the truth, and the route of what no kernel can follow."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts.inner import Inner
from ..contracts.scaling import Frame
from ..registry import elementwise
from . import FORMULAS, compute_dtype, rounded


def scale_act(
    inner: Inner, x: Tensor, scale: Tensor, residual: Tensor | None, frame: Frame, dtype: torch.dtype
) -> Tensor:
    added = None if residual is None else framed(residual, frame)
    y = torch.empty_like(x, dtype=dtype)
    framed(y, frame).copy_(composed(inner, framed(x, frame), spread(scale, frame), added, dtype))
    return y


def scale_act_backward(
    inner: Inner, grad: Tensor, x: Tensor, scale: Tensor, frame: Frame, wants_input: bool, wants_scale: bool
) -> tuple[Tensor | None, Tensor | None]:
    wide = _compute_dtype(grad.dtype)
    above = framed(grad, frame).to(wide)
    for_x = for_scale = None
    if wants_input:
        for_x = torch.empty_like(x)
        framed(for_x, frame).copy_(above * _evaluated(inner, "value", spread(scale, frame), wide))
    if wants_scale:
        slope = _evaluated(inner, "d1", scale, wide)
        for_scale = gathered(above * framed(x, frame).to(wide), frame).view(scale.shape) * slope
        if elementwise(inner.name).masks:
            for_scale = torch.where(slope == 0, 0.0, for_scale)
        for_scale = for_scale.to(scale.dtype)
    return for_x, for_scale


def composed(inner: Inner, x: Tensor, scale: Tensor, residual: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The value in `dtype` for tensors of any shapes that broadcast to that of `x`."""
    wide = _compute_dtype(dtype)
    y = x.to(wide) * _evaluated(inner, "value", scale, wide)
    if residual is not None:
        y = y + residual.to(wide)
    return y.to(dtype)


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """A single product gains nothing from more digits than its result has, but for 16-bit types."""
    return torch.promote_types(dtype, torch.float32)


def _evaluated(inner: Inner, order: str, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """`order` ("value" or "d1") of the activation at the scale, in `dtype`."""
    formula = getattr(FORMULAS[inner.name], order)
    computed = scale.to(torch.promote_types(compute_dtype(scale), dtype))
    return formula(computed, *rounded(scale, inner.a, inner.b)).to(dtype)


def framed(x: Tensor, frame: Frame) -> Tensor:
    """A dense tensor that lies as `frame` says, as its batch, rows and columns."""
    shape = (frame.batch, frame.rows, frame.cols)
    return x.as_strided(shape, (frame.rows * frame.cols, frame.cols, 1))


def spread(factors: Tensor, frame: Frame) -> Tensor:
    """A number for each factor in a shape that broadcasts to the frame's."""
    if frame.by_columns:
        return factors.view(frame.batch, 1, frame.cols)
    return factors.view(-1).repeat(frame.rows // frame.factors).view(1, frame.rows, 1)


def gathered(products: Tensor, frame: Frame) -> Tensor:
    """The sum of what each factor meets."""
    return products.sum(1) if frame.by_columns else products.sum(2).view(-1, frame.factors).sum(0)
