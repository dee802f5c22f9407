"""Activation and cast to 8 bits as an operator that a compiler sees.

Under torch.compile on a GPU the kernels are called as they are: what Inductor makes of the composition reads a row
twice and evaluates the exact tails in torch operations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.library import custom_op

from .. import dispatch
from ..contracts.gated import Gating
from ..contracts.quantized import GRANULARITIES, LARGEST, Rounding
from ..contracts.requirements import Requirements
from ..fusing import Inner
from ..names import PACKAGE
from ..reference.quantized import empty_results


@custom_op(f"{PACKAGE}::quantize", mutates_args=())
def _quantize(
    input: Tensor,
    up: Tensor | None,
    scale: Tensor | None,
    gated: bool,
    activation: str,
    a: float,
    b: float,
    dim: int,
    interleaved: bool,
    gate_first: bool,
    limit: float | None,
    offset: float,
    dtype: torch.dtype,
    granularity: str,
    pow2: bool,
) -> tuple[Tensor, Tensor]:
    needs = Requirements("quantize")
    needs.floating("input", input)
    needs.that(dtype in LARGEST, f"dtype is {dtype}, expected one of {tuple(LARGEST)}")
    needs.that(granularity in GRANULARITIES, f"granularity is {granularity!r}, expected one of {GRANULARITIES}")
    needs.that(granularity == "tensor" or input.dim() > 0, f"granularity is {granularity!r} for a single number")
    needs.that(up is None or gated, "up is given, but nothing is gated")
    if up is not None:
        needs.alike("up", up, input)
        needs.that(not interleaved and gate_first, "up is given besides the order of a packed input")
    elif gated:
        halves = -input.dim() <= dim < input.dim() and input.shape[dim] % 2 == 0
        needs.that(halves, f"input has shape {list(input.shape)}, expected halves along {dim}")
    if scale is not None:
        needs.that(granularity == "tensor", f"scale is given for granularity {granularity!r}")
        needs.that(
            scale.dtype == torch.float32 and scale.numel() == 1 and scale.device == input.device,
            f"scale is {scale.dtype} of shape {list(scale.shape)} on {scale.device}, expected one float32",
        )
    what = _what(gated, activation, a, b, dim, interleaved, gate_first, limit, offset)
    kernels = dispatch.kernels("quantized", input, activation)
    return kernels.quantize(what, input, up, Rounding(dtype, granularity, pow2), scale)


@_quantize.register_fake
def _(
    input, up, scale, gated, activation, a, b, dim, interleaved, gate_first, limit, offset, dtype, granularity, pow2
) -> tuple[Tensor, Tensor]:
    what = _what(gated, activation, a, b, dim, interleaved, gate_first, limit, offset)
    return empty_results(what, input, up, Rounding(dtype, granularity, pow2))


def quantize(
    what: Inner | Gating, input: Tensor, up: Tensor | None, rounding: Rounding, scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What the kernels' `quantize` returns."""
    if isinstance(what, Gating):
        bounds = (None if math.isinf(what.limit) else what.limit, what.offset)
        form = (True, what.activation, what.a, what.b, what.dim, what.interleaved, what.gate_first, *bounds)
    else:
        form = (False, what.name, what.a, what.b, -1, False, True, None, 0.0)
    return _quantize(input, up, scale, *form, *rounding)


def _what(
    gated: bool,
    activation: str,
    a: float,
    b: float,
    dim: int,
    interleaved: bool,
    gate_first: bool,
    limit: float | None,
    offset: float,
) -> Inner | Gating:
    if not gated:
        return Inner(activation, a, b)
    bound = math.inf if limit is None else limit
    return Gating(activation, a, b, dim, interleaved, gate_first, bound, offset)
