"""What a call of batch or group norm with activation and residual consists of, and its kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor

from .inner import Inner

COUNT, CENTER, LOW, RSTD = range(4)
"""The rows of the statistics: how many elements a set has, its mean as a sum of two numbers, and 1 / deviation."""


class Frame(NamedTuple):
    """How a dense tensor lies in memory: `batch` x `rows` x `channels` x `inner` elements.

    Elements of one batch index, of any row and inner index, and of `group` adjacent channels are normalised together.
    """

    batch: int
    rows: int
    channels: int
    inner: int
    group: int

    @property
    def sets(self) -> int:
        return self.batch * self.channels // self.group

    @property
    def split(self) -> tuple[int, int, int, int, int]:
        """The same with the channels of a group in a dimension of their own."""
        return self.batch, self.rows, self.channels // self.group, self.group, self.inner


class Running(NamedTuple):
    """The statistics that evaluation uses, and how fast training moves them."""

    mean: Tensor
    var: Tensor
    momentum: float


class Operands(NamedTuple):
    """y = f((x - mean) rstd weight + bias + residual)"""

    x: Tensor
    residual: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


Gather = Callable[[Tensor], Tensor]
"""From statistics [4, sets], the last row sums of squares about the mean, to every process's, [4, sets, processes]."""

Reduce = Callable[[Tensor], Any]
"""Adds up a tensor over all processes, in its own memory."""


class Kernels(Protocol):
    """The kernels of batch and group norm with activation and residual."""

    def forward(
        self, inner: Inner, operands: Operands, frame: Frame, eps: float, running: Running | None, gather: Gather | None
    ) -> tuple[Tensor, Tensor]:
        """The output and the statistics, [4, sets]; moves the running ones, and gathers those of all processes."""

    def apply(self, inner: Inner, operands: Operands, frame: Frame, statistics: Tensor) -> Tensor:
        """The output, told the statistics."""

    def backward(
        self,
        inner: Inner,
        grad: Tensor,
        operands: Operands,
        frame: Frame,
        statistics: Tensor,
        is_fixed: bool,
        wants_residual: bool,
        wants_parameters: bool,
        reduce: Reduce | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The gradients of x and of the residual, and [2, channels], those of bias and weight."""

    def fixed(self, running: Running, eps: float, x: Tensor) -> Tensor:
        """Statistics from the running ones."""


if TYPE_CHECKING:
    from ..cpu import batch_normalization as cpu
    from ..reference import batch_normalization as reference
    from ..triton import batch_normalization as triton

    _: tuple[Kernels, ...] = (cpu, triton, reference)
