"""The product with a broadcast factor on a CPU: torch's own products, of factors that C++ evaluates.

Factors are few. What is long is one product or sum for each operand, as a user's composition has it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts.inner import Inner
from ..contracts.scaling import Frame
from ..native import index_of
from ..reference.scaling import framed, gathered, spread


def scale_act(
    inner: Inner, x: Tensor, scale: Tensor, residual: Tensor | None, frame: Frame, dtype: torch.dtype
) -> Tensor:
    wide = torch.promote_types(dtype, torch.float32)
    factors = spread(_factors(inner, scale.to(wide)), frame)
    y = torch.empty_like(x, dtype=dtype)
    if residual is None:
        torch.mul(framed(x, frame), factors, out=framed(y, frame))
    elif x.dtype == residual.dtype == factors.dtype == dtype:
        torch.addcmul(framed(residual, frame), framed(x, frame), factors, out=framed(y, frame))
    else:
        torch.add(framed(x, frame) * factors, framed(residual, frame), out=framed(y, frame))
    return y


def scale_act_backward(
    inner: Inner, grad: Tensor, x: Tensor, scale: Tensor, frame: Frame, wants_input: bool, wants_scale: bool
) -> tuple[Tensor | None, Tensor | None]:
    wide = torch.promote_types(grad.dtype, torch.float32)
    above, computed = framed(grad, frame), scale.to(wide)
    for_x = for_scale = None
    if wants_input:
        for_x = torch.empty_like(x)
        torch.mul(above, spread(_factors(inner, computed), frame), out=framed(for_x, frame))
    if wants_scale:
        sums = gathered(above.to(wide) * framed(x, frame), frame).view(scale.shape)
        for_scale = torch.ops.nnkernels.backward(sums, computed, index_of(inner.name), inner.a, inner.b)
        for_scale = for_scale.to(scale.dtype)
    return for_x, for_scale


def _factors(inner: Inner, scale: Tensor) -> Tensor:
    return torch.ops.nnkernels.forward(scale, index_of(inner.name), inner.a, inner.b)
