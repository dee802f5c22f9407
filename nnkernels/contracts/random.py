"""How random bits become slopes, decisions and units, the same on every backend, and the kernels that draw them.

A counter gives four words of 32 bits, which serve four elements, or eight of a 16-bit tensor. There a slope takes half
a word. A decision or unit takes a whole one, the 32 bits from its own half on, behind the last of which the first ones
follow again: the upper half is no other element's upper half, and all but decides; the lower one, the upper one of the
element before, gives the probability its last digits. So each probability is right to 2^-32. Neighbours in a counter
depend on each other by 2^-16 at most: behind an element whose own half decided nothing, once in 2^16 times, the next
one's digits are known, so that two neighbouring events of probability p come together with about max(p, 2^-16) p.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

ROUNDS = 7
"""The fewest that pass BigCrush (Salmon et al. 2011)."""

_WORD = 0xFFFFFFFF


def line(dtype: torch.dtype, lower: float, upper: float) -> tuple[float, float]:
    """(scale, offset) of slope = scale number + offset, `number` being the random bits as a kernel reads them.

    float64 reads a word as an integer, float32 the upper 23 bits b as 1 + b 2^-23, 16-bit types 16 bits b as 2^23 + b.
    Slopes lie in the middle of the 2^32, 2^23 or 2^16 parts of [lower, upper], so that rounding leaves none outside.
    """
    if dtype == torch.float64:
        scale = (upper - lower) * 2.0**-32
        return scale, lower + 0.5 * scale
    if dtype == torch.float32:
        scale = _single(upper - lower)
        return scale, _single(lower - scale * (1 - 2.0**-24))
    scale = _single((upper - lower) * 2.0**-16)
    return scale, _single(lower - scale * (2.0**23 - 0.5))


BERNOULLI_STEPS = 2.0**31
"""How many equally likely numbers are drawn among by a Bernoulli unit.

With p = sigmoid(-|x|), which has all its digits on both sides, a unit is the rarer of 0 and 1 if the upper 31 bits b of
its random word fulfil b + 1/2 < 2^31 p: with a probability within 2^-32 of the right one, also in the tails.
"""


def threshold(p: float) -> int:
    """The least random word whose element dropout keeps, 0 <= p < 1."""
    return min(round(p * 2.0**32), _WORD)


def _single(value: float) -> float:
    return ctypes.c_float(value).value


class Kernels(Protocol):
    """The kernels of rrelu, dropout and Bernoulli units; `seed` is a tensor of one int64."""

    def rrelu(self, x: Tensor, seed: Tensor, lower: float, upper: float, out: Tensor | None = None) -> Tensor:
        """x, times a slope drawn from [lower, upper] where x <= 0; written to `out`, which is dense, if it is given."""

    def rrelu_backward(
        self, grad: Tensor, x: Tensor, seed: Tensor, strides: tuple[int, ...], lower: float, upper: float
    ) -> Tensor:
        """grad, times the slopes that `rrelu` drew for an output with these strides where x <= 0."""

    def rrelu_signs(self, x: Tensor, y: Tensor, seed: Tensor, lower: float, upper: float) -> Tensor:
        """Writes rrelu to `y`, which may be `x`, and returns one bit for each element, set where x <= 0.

        Both are of one dimension, adjacent in memory.
        """

    def rrelu_from_signs(self, grad: Tensor, packed: Tensor, seed: Tensor, lower: float, upper: float) -> Tensor:
        """grad, times the slopes that `rrelu_signs` drew where it set a bit."""

    def dropout(
        self, x: Tensor, seed: Tensor, p: float, strides: tuple[int, ...] | None = None, out: Tensor | None = None
    ) -> Tensor:
        """x / (1 - p), or 0 with probability p, as is chosen for a dense output with these strides (else x's own)."""

    def dropout_kept(self, x: Tensor, seed: Tensor, p: float) -> tuple[Tensor, ...]:
        """`dropout` and, where reading them costs less than drawing again, its decisions: one bit for each element.

        They are numbered as the output's elements lie in memory, and set where one is kept.
        """

    def dropout_again(self, grad: Tensor, p: float, strides: tuple[int, ...], seed: Tensor, *packed: Tensor) -> Tensor:
        """grad / (1 - p), or 0 where `dropout_kept` dropped an element of an output with these strides.

        `packed` are the decisions, if there are any.
        """

    def bernoulli(self, x: Tensor, seed: Tensor) -> Tensor:
        """1 with probability sigmoid(x), else 0; NaN of NaN."""


@runtime_checkable
class KeepingSlopes(Protocol):
    """What kernels have besides where a product with stored slopes costs less than drawing them again."""

    def rrelu_kept(self, x: Tensor, seed: Tensor, lower: float, upper: float) -> tuple[Tensor, Tensor]:
        """`rrelu`, and the slopes in its type and strides: 1 where x > 0 or NaN."""


if TYPE_CHECKING:
    from ..cpu import random as cpu
    from ..reference import random as reference
    from ..triton import random as triton

    _: tuple[Kernels, ...] = (cpu, triton, reference)
    _slopes: KeepingSlopes = cpu
