"""How tensors lie in memory: as rows of adjacent elements, the one layout that most kernels see, and in what order."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from torch import Tensor


class Geometry(NamedTuple):
    """`rows` rows of `cols` adjacent elements; `strides` holds each operand's distance between rows, in elements."""

    rows: int
    cols: int
    strides: tuple[int, ...]


def plan(*tensors: Tensor) -> Geometry | None:
    """The common geometry of tensors of one shape, the output last, or None if they are not rows of adjacent elements.

    The dimensions are ordered as they lie in the output, and those that continue each other in every operand merge. One
    run left is flat; two are rows. Inputs may repeat rows (stride 0), the output may not overlap itself.

    Example:
        >>> import torch
        >>> plan(torch.zeros(4, 6).chunk(2, -1)[0], torch.zeros(4, 3))
        Geometry(rows=4, cols=3, strides=(6, 3))
    """
    out = tensors[-1]
    if all(tensor.is_contiguous() for tensor in tensors):
        numel = out.numel()
        return Geometry(1 if numel else 0, numel, (numel,) * len(tensors))
    if out.numel() == 0:
        return Geometry(0, 0, (0,) * len(tensors))

    strides = [tensor.stride() for tensor in tensors]
    dims = [dim for dim, size in enumerate(out.shape) if size != 1]
    dims.sort(key=strides[-1].__getitem__)
    flat = (1,) * len(tensors)
    runs = [(1, flat)]
    for dim in dims:
        extent, step = runs[-1]
        size, steps = out.shape[dim], tuple(stride[dim] for stride in strides)
        if steps == tuple(extent * s for s in step):
            runs[-1] = (extent * size, step)
        elif len(runs) == 1 and extent > 1:
            runs.append((size, steps))
        else:
            return None
    cols = runs[0][0]
    if len(runs) == 1:
        return Geometry(1, cols, (cols,) * len(tensors))
    rows, steps = runs[1]
    return Geometry(rows, cols, steps) if steps[-1] >= cols else None


def memory_order(x: Tensor) -> tuple[int, ...] | None:
    """The dimensions from the outermost in memory to the innermost; None if they are in order, or memory repeats."""
    if x.is_contiguous():
        return None
    strides = x.stride()
    order: list[int] = []
    for dim in range(x.dim()):  # not `sorted`, which compilers refuse where sizes are symbols
        at = 0
        while at < dim and strides[order[at]] >= strides[dim]:
            at += 1
        order.insert(at, dim)
    return None if 0 in strides or order == list(range(x.dim())) else tuple(order)


def restored(x: Tensor, order: Sequence[int]) -> Tensor:
    """The inverse of `x.permute(order)`."""
    return x.permute([order.index(dim) for dim in range(x.dim())])


def empty_in(order: Sequence[int] | None, like: Tensor, shape: Sequence[int]) -> Tensor:
    """Dense memory of `shape`, its dimensions in `order`; no view, which nobody could write in place after a Function.

    `order` is as `memory_order` gives it.
    """
    if order is None:
        return like.new_empty(shape)
    strides, step = [0] * len(shape), 1
    for dim in reversed(order):
        strides[dim] = step
        step *= max(shape[dim], 1)
    return like.new_empty_strided(shape, strides)


def in_memory(order: tuple[int, ...] | None, x: Tensor) -> Tensor:
    """The elements in the order of memory, as `memory_order` gives it; a copy only if they do not lie so."""
    return (x if order is None else x.permute(order)).contiguous()


def line_of(order: Sequence[int] | None, x: Tensor, dim: int) -> tuple[int, int]:
    """The numbers along `dim` of what `in_memory` gives, and how far they lie apart: as many lines lie side by side."""
    within = range(dim + 1, x.dim()) if order is None else order[order.index(dim) + 1 :]
    return x.shape[dim], prod(x.shape[axis] for axis in within)
