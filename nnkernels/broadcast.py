"""How operands that broadcast are read: masks with stride 0 where they repeat, and copied only if their strides are too
irregular; others as tensors of the input's shape and type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_OUTER = 3


def spread(operand: Tensor, like: Tensor) -> Tensor:
    """`operand` with the shape and type of `like`.

    Its gradient is added up in the wider of the two types, and only then rounded to the operand's.
    """
    wide = torch.promote_types(operand.dtype, like.dtype)
    return operand.to(wide).expand(like.shape).to(like.dtype)


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
