"""The levels among which a derivative is kept in a few bits, and the kernels that keep them.

Tensors are of one dimension, adjacent in memory. In `packed`, a uint8 tensor, element i has the bits from i * bits on,
the lowest bit of a byte first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Levels:
    """A derivative as one of 2^bits numbers, evenly spaced from `low` to `high`."""

    bits: int
    low: float
    high: float

    @property
    def worst_error(self) -> float:
        """The greatest distance of a derivative from its level; 0 for a derivative of two values."""
        return 0.0 if self.bits == 1 else (self.high - self.low) / (2 * (2**self.bits - 1))


class Kernels(Protocol):
    """The kernels that keep a derivative in a few bits."""

    def quantised_forward(self, name: str, x: Tensor, a: float, b: float, levels: Levels, y: Tensor) -> Tensor:
        """Writes f(x) to `y`, which may be `x`, and returns f'(x) as one of the levels, packed."""

    def quantised_backward(self, name: str, grad: Tensor, packed: Tensor, levels: Levels) -> Tensor:
        """grad times the derivative that `packed` holds."""


if TYPE_CHECKING:
    from ..cpu import saving as cpu
    from ..reference import saving as reference
    from ..triton import saving as triton

    _: tuple[Kernels, ...] = (cpu, triton, reference)
