"""What a call that casts to 8 bits asks for, and its kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from .gated import Gating
from .inner import Inner

BLOCK = 128
"""Elements of a row that share a scale under granularity "block"."""

LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0, torch.int8: 127.0}
"""The 8-bit types and the greatest numbers that are used of each; int8 is symmetric, so -128 is not."""

GRANULARITIES = ("tensor", "row", "block")

SMALLEST_SCALE = 2.0**-126
"""The smallest normal float32. What would have a smaller scale is 0 in every 8-bit type, and gets 1."""


class Rounding(NamedTuple):
    """The 8-bit type, what shares a scale, and whether scales are powers of two."""

    dtype: torch.dtype
    granularity: str
    pow2: bool

    def scales_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The scales' shape for values of this shape."""
        if self.granularity == "tensor":
            return ()
        return (*shape[:-1], 1 if self.granularity == "row" else -(-shape[-1] // BLOCK))


class Kernels(Protocol):
    """The kernels of activations whose values are cast to 8 bits."""

    def quantize(
        self, what: Inner | Gating, input: Tensor, up: Tensor | None, rounding: Rounding, scale: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The values in 8 bits and their scales; if a scale is given, their greatest magnitude instead of it."""


if TYPE_CHECKING:
    from ..reference import quantized as reference
    from ..triton import quantized as triton

    _: tuple[Kernels, ...] = (triton, reference)
