"""How the matrix of a call with bias, activation, dropout and residual lies in memory, and its kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from torch import Tensor

from .inner import Inner

ALONG_NOTHING, ALONG_COLS, ALONG_ROWS = 0, 1, 2


class Matrix(NamedTuple):
    """How a dense tensor lies in memory: `rows` rows of `cols` adjacent elements, and where its channels are.

    `along` is ALONG_COLS (column c is channel c), ALONG_ROWS (row r is channel r % channels) or ALONG_NOTHING. For
    random numbers a row begins at a multiple of eight: element (r, c) has number r * padded + c.
    """

    rows: int
    cols: int
    along: int
    channels: int

    @property
    def padded(self) -> int:
        return -(-self.cols // 8) * 8


class Kernels(Protocol):
    """The kernels of bias, activation, dropout and residual."""

    def bias_act(
        self,
        inner: Inner,
        x: Tensor,
        bias: Tensor | None,
        residual: Tensor | None,
        p: float,
        seed: Tensor | None,
        matrix: Matrix,
    ) -> Tensor:
        """dropout(f(x + bias)) + residual of matrices; p = 0 drops nothing and takes no seed."""

    def bias_act_backward(
        self,
        inner: Inner,
        grad: Tensor,
        x: Tensor | None,
        bias: Tensor | None,
        p: float,
        seed: Tensor | None,
        matrix: Matrix,
        wants_bias: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """The gradients of x and of the bias; `x` is None for "identity", whose derivative does not ask for it."""


if TYPE_CHECKING:
    from ..cpu import fused as cpu
    from ..reference import fused as reference
    from ..triton import fused as triton

    _: tuple[Kernels, ...] = (cpu, triton, reference)
