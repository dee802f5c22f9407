"""Activation and cast to 8 bits in one pass, as modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import functional
from ..functional.quantized import rounding_of
from ..fusing import inner
from .gated import Gated

__all__ = ["ActQuantize", "GatedQuantize"]


class ActQuantize(torch.nn.Module):
    """f(x) in 8 bits and what it was divided by; see `nnkernels.functional.act_quantize`.

    Args:
        activation: the name of a stateless activation, or "identity".
        dtype: torch.float8_e4m3fn, torch.float8_e5m2 or torch.int8.
        granularity: what shares a scale: "tensor", "row" or "block" (128 elements of a row).
        pow2: whether scales are powers of two.
        **constants: those of the activation.

    Shape: `(..., K)` to the same in 8 bits and scales of shape (), `(..., 1)` or `(..., ceil(K / 128))`. Called with a
    scale (granularity "tensor"), it returns the greatest magnitude of f(x) in its stead.

    Raises:
        ValueError, TypeError: as the function does.

    Example:
        >>> import torch, nnkernels
        >>> quantize = nnkernels.nn.ActQuantize("gelu", granularity="block")
        >>> quantize
        ActQuantize('gelu', dtype=torch.float8_e4m3fn, granularity='block')
        >>> [tuple(tensor.shape) for tensor in quantize(torch.randn(4, 256))]
        [(4, 256), (4, 2)]
    """

    def __init__(
        self,
        activation: str = "identity",
        dtype: torch.dtype = torch.float8_e4m3fn,
        granularity: str = "tensor",
        pow2: bool = False,
        **constants: float,
    ) -> None:
        super().__init__()
        inner("ActQuantize", activation, constants)
        rounding_of("ActQuantize", dtype, granularity, pow2, False)
        self.activation, self.dtype, self.granularity, self.pow2 = activation, dtype, granularity, pow2
        self.constants = constants

    def forward(self, input: Tensor, scale: Tensor | float | None = None) -> tuple[Tensor, Tensor]:
        return functional.act_quantize(
            input, self.activation, self.dtype, scale,
            granularity=self.granularity, pow2=self.pow2, **self.constants,
        )  # fmt: skip

    def extra_repr(self) -> str:
        shown = [repr(self.activation), f"dtype={self.dtype}", f"granularity={self.granularity!r}"]
        shown += ["pow2=True"] if self.pow2 else []
        return ", ".join([*shown, *(f"{name}={value}" for name, value in self.constants.items())])


class GatedQuantize(Gated):
    """f(gate) up in 8 bits and what it was divided by; see `nnkernels.functional.gated_quantize`.

    Args:
        activation: the activation's name.
        dim: the dimension that is halved, if the module is called with one tensor.
        dtype, granularity, pow2: as for `ActQuantize`.
        **options: those of `Gated`, and the activation's constants.

    Shape: `(..., 2 n, ...)` to `(..., n, ...)` in 8 bits and scales; called with gate and up, tensors of one shape.

    Example:
        >>> import torch, nnkernels
        >>> quantize = nnkernels.nn.GatedQuantize("silu", granularity="row")
        >>> [tuple(tensor.shape) for tensor in quantize(torch.randn(4, 256))]
        [(4, 128), (4, 1)]
    """

    def __init__(
        self,
        activation: str = "silu",
        dim: int = -1,
        dtype: torch.dtype = torch.float8_e4m3fn,
        granularity: str = "tensor",
        pow2: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(activation, dim, **options)
        rounding_of("GatedQuantize", dtype, granularity, pow2, False)
        self.dtype, self.granularity, self.pow2 = dtype, granularity, pow2

    def forward(  # type: ignore[override]
        self, input: Tensor, up: Tensor | None = None, scale: Tensor | float | None = None
    ) -> tuple[Tensor, Tensor]:
        return functional.gated_quantize(
            input, self.activation, self.dim, self.dtype, scale, up=up, granularity=self.granularity, pow2=self.pow2,
            interleaved=self.interleaved, gate_first=self.gate_first, limit=self.limit, offset=self.offset,
            **self.constants,
        )  # fmt: skip

    def _options(self) -> list[str]:
        shown = [f"dtype={self.dtype}", f"granularity={self.granularity!r}", *(["pow2=True"] if self.pow2 else [])]
        return [*super()._options(), *shown]
