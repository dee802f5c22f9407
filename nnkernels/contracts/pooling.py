"""How Maxout's tensors lie in memory, how its winners are packed, and its kernels.

The kernels of every backend take dense tensors of any strides and see their memory: rows x `pieces` x `inner` elements
of the input, rows x `inner` of the output. The winner of an output element is the number of its greatest piece: the
first NaN, else the first of the greatest, as in `torch.max`. Output element i, counted in memory order, has the
`width(pieces)` bits from i width on, the lowest bit of a byte first; an element never spans two bytes. What the last
64-bit word holds beyond the last element has no meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor

MOST_PIECES = 256
"""The most pieces whose winner fits into a byte."""


def width(pieces: int) -> int:
    """Bits for one winner among 2 to 256 pieces: 1, 2, 4 or 8."""
    return next(bits for bits in (1, 2, 4, 8) if pieces <= 1 << bits)


def packed_bytes(elements: int, pieces: int) -> int:
    """The size of the packed winners, in whole 64-bit words, so that kernels may read and write words of any size."""
    return -(-elements * width(pieces) // 64) * 8


class Kernels(Protocol):
    """The kernels of Maxout."""

    def maxout(self, x: Tensor, y: Tensor, winners: Tensor | None, pieces: int, inner: int) -> None:
        """Writes the greatest pieces and, where asked for, the packed winners."""

    def maxout_backward(self, grad: Tensor, winners: Tensor, grad_x: Tensor, pieces: int, inner: int) -> None:
        """Writes `grad` where a piece won, and 0 elsewhere."""


if TYPE_CHECKING:
    from ..cpu import pooling as cpu
    from ..reference import pooling as reference
    from ..triton import pooling as triton

    _: tuple[Kernels, ...] = (cpu, triton, reference)
