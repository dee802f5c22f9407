"""How a tensor with a broadcast factor lies in memory, and the kernels of their product."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from .inner import Inner


class Frame(NamedTuple):
    """A dense tensor as `batch` x `rows` x `cols` adjacent elements, and which of the `factors` each meets.

    By columns element (n, r, c) meets factor n cols + c: a layer scale or a squeeze-and-excite gate with the channels
    last in memory. By rows, where `batch` is 1, it meets factor r % factors: the same with the channels before the
    pixels.
    """

    batch: int
    rows: int
    cols: int
    by_columns: bool
    factors: int


class Kernels(Protocol):
    """The kernels of input f(scale) + residual."""

    def scale_act(
        self, inner: Inner, x: Tensor, scale: Tensor, residual: Tensor | None, frame: Frame, dtype: torch.dtype
    ) -> Tensor:
        """x f(scale) + residual in `dtype`, lying as `x` does.

        x and residual are dense and lie alike, as `frame` says; scale is contiguous. All may have types of their own.
        It is computed in float64 if `dtype` is that, else in float32, and rounded once.
        """

    def scale_act_backward(
        self,
        inner: Inner,
        grad: Tensor,
        x: Tensor,
        scale: Tensor,
        frame: Frame,
        wants_input: bool,
        wants_scale: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """grad f(scale) in x's type, and f'(scale) times the sums of grad x that each factor meets, in scale's."""


if TYPE_CHECKING:
    from ..cpu import scaling as cpu
    from ..reference import scaling as reference
    from ..triton import scaling as triton

    _: tuple[Kernels, ...] = (cpu, triton, reference)
