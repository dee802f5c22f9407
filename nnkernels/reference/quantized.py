"""Activation and cast to 8 bits in torch operations: the truth, and the route of what the kernels cannot follow.

Everything behind the activation is float32 arithmetic, so that all backends give the same bits: a scale is the greatest
magnitude times 1/largest, and a value times 1/scale is clamped and rounded to the nearest even.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts.gated import Gating, gate_and_up
from ..contracts.inner import Inner
from ..contracts.quantized import BLOCK, LARGEST, SMALLEST_SCALE, Rounding
from . import FORMULAS, compute_dtype, rounded
from .gated import product


def quantize(
    what: Inner | Gating, input: Tensor, up: Tensor | None, rounding: Rounding, scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    y = values(what, input, up)
    if scale is not None:
        return cast(y, scale, rounding.dtype), greatest(y)
    if rounding.granularity == "tensor":
        scale = scale_of(greatest(y), rounding)
        return cast(y, scale, rounding.dtype), scale
    cols = y.shape[-1]
    groups = y.unsqueeze(-2)
    if rounding.granularity == "block":
        groups = torch.nn.functional.pad(y, (0, -cols % BLOCK)).unflatten(-1, (-(-cols // BLOCK), BLOCK))
    scale = scale_of(greatest(groups, -1), rounding)
    return cast(groups, scale.unsqueeze(-1), rounding.dtype).flatten(-2)[..., :cols].contiguous(), scale


def empty_results(what: Inner | Gating, input: Tensor, up: Tensor | None, rounding: Rounding) -> tuple[Tensor, Tensor]:
    """Memory for what `quantize` returns: codes that lie as the values do, or row by row where rows count."""
    like = gate_and_up(what, input, up)[0] if isinstance(what, Gating) else input
    shape = rounding.scales_shape(tuple(like.shape))
    layout = torch.preserve_format if rounding.granularity == "tensor" else torch.contiguous_format
    q = torch.empty_like(like, dtype=rounding.dtype, memory_format=layout)
    return q, torch.empty(shape, dtype=torch.float32, device=like.device)


def values(what: Inner | Gating, input: Tensor, up: Tensor | None) -> Tensor:
    """f(input), or f(gate) up, in float32."""
    if isinstance(what, Gating):
        return product(what, input, up).to(torch.float32)
    y = FORMULAS[what.name].value(input.to(compute_dtype(input)), *rounded(input, what.a, what.b))
    return y.to(torch.float32)


def greatest(y: Tensor, dim: int | None = None) -> Tensor:
    """The greatest magnitude, NaN if there is one; 0 of nothing."""
    if dim is None:
        y, dim = y.flatten(), 0
    if y.shape[dim] == 0:
        return y.sum(dim)
    return y.abs().amax(dim)


def scale_of(amax: Tensor, rounding: Rounding) -> Tensor:
    """The scale that maps `amax` to the type's largest number, or the power of two next above it."""
    scale = amax * (1 / LARGEST[rounding.dtype])
    tiny = scale < SMALLEST_SCALE
    if rounding.pow2:
        up = ((scale.view(torch.int32) + 0x7FFFFF) & 0x7F800000).view(torch.float32)
        scale = torch.where(scale == scale, up, scale)
    return torch.where(tiny, 1.0, scale)


def cast(y: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """y / scale in `dtype`, saturating; NaN is 0 in int8."""
    largest = LARGEST[dtype]
    y = (y * (1 / scale)).clamp(-largest, largest)
    if dtype == torch.int8:
        y = torch.where(y == y, torch.round(y), 0.0)
    return y.to(dtype)
