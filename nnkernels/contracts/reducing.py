"""What a call of softmax and its kin asks for, how its mask is read, and its kernels.

`log` asks for the logarithm, `scale` multiplies the input, `mask` is True (or a number to add) where an element counts,
`causal` keeps column j of query i if j <= i, the query being the index before `dim`. Masks that broadcast are read with
stride 0 where they repeat, and copied only if their strides are too irregular.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

_OUTER = 3


class MaskLayout(NamedTuple):
    """A mask over (outer, dim, inner), whose outer index has three digits; sizes and strides run from the outermost."""

    mask: Tensor
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dim_stride: int
    inner_stride: int


def split(shape: Sequence[int], dim: int) -> tuple[int, int, int]:
    """How many elements lie before, along and after `dim`; a tensor of no dimensions has one along it."""
    if not shape:
        return 1, 1, 1
    outer = inner = 1
    for size in shape[:dim]:
        outer *= size
    for size in shape[dim + 1 :]:
        inner *= size
    return outer, shape[dim], inner


def queries(shape: Sequence[int], dim: int, causal: bool) -> int:
    """The length of the dimension along which a causal form counts its rows, just before `dim`; 0 for no such form."""
    return shape[dim - 1] if causal else 0


def mask_layout(mask: Tensor, shape: Sequence[int], dim: int) -> MaskLayout:
    """How to read `mask`, which broadcasts to `shape`, split around `dim`.

    Example:
        >>> import torch
        >>> mask_layout(torch.ones(2, 1, 1, 5), (2, 3, 4, 5), 3)[1:]
        ((1, 2, 12), (0, 5, 0), 1, 0)
    """
    whole = mask.expand(tuple(shape))
    if not shape or not whole.numel():
        return MaskLayout(whole, (1,) * _OUTER, (0,) * _OUTER, 0, 0)
    outer = _merged(whole, range(dim))
    inner = _merged(whole, range(dim + 1, len(shape)))
    if len(outer) > _OUTER or len(inner) > 1:
        return mask_layout(whole.clone(memory_format=torch.contiguous_format), shape, dim)
    padded = [(1, 0)] * (_OUTER - len(outer)) + outer
    sizes, strides = zip(*padded, strict=True)
    return MaskLayout(whole, sizes, strides, whole.stride(dim), inner[0][1] if inner else 0)


def _merged(x: Tensor, dims: range) -> list[tuple[int, int]]:
    """(size, stride) of the runs that the dimensions form, outermost first."""
    runs: list[tuple[int, int]] = []
    for dim in reversed(dims):
        size, stride = x.shape[dim], x.stride(dim)
        if size == 1:
            continue
        if runs and stride == runs[0][0] * runs[0][1]:
            runs[0] = (runs[0][0] * size, runs[0][1])
        else:
            runs.insert(0, (size, stride))
    return runs


class Kernels(Protocol):
    """The kernels of softmax and its kin."""

    def softmax(
        self, x: Tensor, dim: int, log: bool, scale: float, mask: Tensor | None, causal: bool, dtype: torch.dtype
    ) -> Tensor:
        """The (log-)softmax of scale x + mask along `dim`, in `dtype`; 0 (-inf) for a row of which nothing is left."""

    def log_softmax(
        self, x: Tensor, dim: int, scale: float, mask: Tensor | None, causal: bool, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        """`softmax(..., log=True)`, and the statistics with which `log_softmax_backward` has the rest from the input.

        They are float32 of shape (2, outer, inner): of each row the maximum of its logits, to which a scale comes later
        unless a mask is added, and the logarithm of the sum of the exponentials below it. The reference needs none.
        """

    def softmax_backward(
        self, grad: Tensor, y: Tensor, dim: int, log: bool, scale: float, causal: bool, masked: bool, dtype: torch.dtype
    ) -> Tensor:
        """The gradient for the input, of type `dtype`, from the output alone.

        Where `masked`, an output of -inf is a constant: what comes from above for it reaches nothing.
        """

    def log_softmax_backward(
        self, grad: Tensor, x: Tensor, statistics: Tensor, dim: int, scale: float, mask: Tensor | None, causal: bool
    ) -> Tensor:
        """The gradient for the 16-bit input `x`, in its type, not from the rounded output; `grad` may be float32."""


if TYPE_CHECKING:
    from ..cpu import reducing as cpu
    from ..reference import reducing as reference
    from ..triton import reducing as triton

    _: tuple[Kernels, ...] = (cpu, triton, reference)
