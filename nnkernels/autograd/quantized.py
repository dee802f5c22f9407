"""The routes of activation and cast to 8 bits: kernels for a plain call and, on a GPU, for a compiled one, torch
operations for any other. 8-bit results carry no gradient.
"""

from __future__ import annotations

from torch import Tensor

from .. import dispatch
from ..contracts.gated import Gating
from ..contracts.quantized import Rounding
from ..fusing import Inner
from ..reference import quantized as reference
from .context import compiles_kernels, is_plain_call


def call(
    what: Inner | Gating, input: Tensor, up: Tensor | None, rounding: Rounding, scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The values in 8 bits, and their scales or, if a scale is given, their greatest magnitude."""
    input, up = input.detach(), None if up is None else up.detach()
    if not is_plain_call(input, up, scale):
        if compiles_kernels(input, up, scale):
            from . import quantized_ops

            return quantized_ops.quantize(what, input, up, rounding, scale)
        return reference.quantize(what, input, up, rounding, scale)
    name = what.activation if isinstance(what, Gating) else what.name
    return dispatch.kernels("quantized", input, name).quantize(what, input, up, rounding, scale)


def is_readable(scale: Tensor) -> bool:
    """Whether a scale has a number that can be looked at now."""
    return is_plain_call(scale)
