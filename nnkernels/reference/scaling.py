"""The product with a broadcast factor in torch operations: the truth, and the route of what no kernel can follow."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from ..contracts.inner import Inner
from ..contracts.scaling import Frame
from ..registry import elementwise
from . import FORMULAS, compute_dtype, rounded


def scale_act(
    inner: Inner, x: Tensor, scale: Tensor, residual: Tensor | None, frame: Frame, dtype: torch.dtype
) -> Tensor:
    added = None if residual is None else _framed(residual, frame)
    y = composed(inner, _framed(x, frame), _factors(scale, frame), added, dtype)
    return y.as_strided(x.shape, x.stride())


def scale_act_backward(
    inner: Inner, grad: Tensor, x: Tensor, scale: Tensor, frame: Frame, wants_input: bool, wants_scale: bool
) -> tuple[Tensor | None, Tensor | None]:
    wide = _compute_dtype(grad, scale)
    framed = _framed(grad, frame).to(wide)
    for_x = for_scale = None
    if wants_input:
        factors = FORMULAS[inner.name].value(_factors(scale, frame).to(wide), *rounded(scale, inner.a, inner.b))
        for_x = (framed * factors).to(x.dtype).as_strided(x.shape, x.stride())
    if wants_scale:
        products = framed * _framed(x, frame).to(wide)
        sums = products.sum(1) if frame.by_columns else products.sum(2).view(-1, frame.factors).sum(0)
        sums = sums.view(scale.shape)
        slope = FORMULAS[inner.name].d1(scale.to(wide), *rounded(scale, inner.a, inner.b))
        for_scale = sums * slope
        if elementwise(inner.name).masks:
            for_scale = torch.where(slope == 0, 0.0, for_scale)
        for_scale = for_scale.to(scale.dtype)
    return for_x, for_scale


def composed(inner: Inner, x: Tensor, scale: Tensor, residual: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The value in `dtype` for tensors of any shapes that broadcast to that of `x`."""
    given = [tensor for tensor in (x, scale, residual) if tensor is not None]
    wide = _compute_dtype(*given)
    y = x.to(wide) * FORMULAS[inner.name].value(scale.to(wide), *rounded(scale, inner.a, inner.b))
    if residual is not None:
        y = y + residual.to(wide)
    return y.to(dtype)


def _compute_dtype(*tensors: Tensor) -> torch.dtype:
    return reduce(torch.promote_types, map(compute_dtype, tensors))


def _framed(x: Tensor, frame: Frame) -> Tensor:
    shape = (frame.batch, frame.rows, frame.cols)
    return x.as_strided(shape, (frame.rows * frame.cols, frame.cols, 1))


def _factors(scale: Tensor, frame: Frame) -> Tensor:
    """The scale in a shape that broadcasts to the frame's."""
    if frame.by_columns:
        return scale.view(frame.batch, 1, frame.cols)
    return scale.view(-1).repeat(frame.rows // frame.factors).view(1, frame.rows, 1)
