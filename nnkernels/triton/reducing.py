"""Launches the kernels of softmax and its kin: plans layouts, chooses tiles and warps."""

from __future__ import annotations

from functools import cache
from math import gcd
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..broadcast import mask_layout, queries, split
from ..layout import plan
from . import reducing_backward, reducing_kernels
from .backend import _guard

_THREAD_ELEMENTS = 16
_MAX_WARPS = 32
_ROW_ELEMENTS, _ROW_BYTES = 16384, 65536  # longer rows go in chunks
_TILE_BYTES = 8192  # of several short rows, or of columns, in one program
_CHUNK_BYTES = 16384
_PARTS = 1024
TICKET = False
EVICT = ("evict_last", "evict_first")
_LINE_BYTES = 128
_ALIGN = 16
_VECTOR_BYTES = 16
_LEAST_SKEWED = 1024
_NONE, _KEEP, _ADD = range(3)


class _Tile(NamedTuple):
    outer: int
    inner: int
    num_warps: int


def softmax(
    x: Tensor, dim: int, log: bool, scale: float, mask: Tensor | None, causal: bool, dtype: torch.dtype
) -> Tensor:
    """As `reference.reducing.softmax`; a narrower input is widened in the kernel."""
    shape = x.shape
    y = torch.empty(shape, dtype=dtype, device=x.device)
    if y.numel() == 0:
        return y
    if torch.promote_types(x.dtype, dtype) != dtype:
        x = x.to(dtype)
    outer, n, inner = sizes = split(shape, dim)
    x, stride = _rows(x, y, sizes)
    kind, layout = _NONE, (1, 1, 0, 0, 0, 0, 0)
    if mask is None:
        mask = x
    else:
        kind = _KEEP if mask.dtype == torch.bool else _ADD
        mask, digits, strides, *rest = mask_layout(mask, shape, dim)
        mask = mask.view(torch.uint8) if kind == _KEEP else mask
        layout = (*digits[1:], *strides, *rest)
    *along, inner_stride = layout
    flags = {
        "LOG": log,
        "MASK": kind,
        "CAUSAL": causal,
        "SCALED": abs(scale) != 1,
        "NEGATIVE": scale < 0 and kind != _ADD,
        "ALIGN": gcd(n if inner == 1 else inner, stride, _ALIGN),
    }
    skew = {"SKEW": _skew(n, stride, y) if kind == _NONE and not causal else 1}
    given = (float(scale), max(1, queries(shape, dim, causal)), *along)
    kernels = reducing_kernels
    with _guard(x.device):
        if inner > 1:
            tile, once = _columns(n, inner, y)
            kernels.softmax_columns[(outer * -(-inner // tile.inner),)](
                x, y, mask, n, inner, stride, *given, inner_stride, **flags, ONCE=once, BLOCK_N=tile.outer,
                BLOCK_INNER=tile.inner, num_warps=tile.num_warps, enable_fp_fusion=False,
            )  # fmt: skip
        elif n + skew["SKEW"] - 1 > _longest(y):
            grid, block, partial, done, counts = _chunks(outer, n + skew["SKEW"] - 1, y, 4, 1)
            kernels.softmax_long[grid](
                x, y, mask, partial, done, *counts, n, stride, *given, **flags, **skew, FULL=n % block == 0, BLOCK=block,
                PARTS=min(_PARTS, _power(counts[1])), TICKET=TICKET,
                KEEP_IN=EVICT[0], LET_GO=EVICT[1], num_warps=_warps(block),
                enable_fp_fusion=False,
            )  # fmt: skip
        else:
            tile = _short(outer, n + skew["SKEW"] - 1, y)
            kernels.softmax_rows[(-(-outer // tile.outer),)](
                x, y, mask, outer, n, stride, *given, **flags, **skew, FULL=n == tile.inner, BLOCK_ROWS=tile.outer,
                BLOCK_COLS=tile.inner, num_warps=tile.num_warps, enable_fp_fusion=False,
            )  # fmt: skip
    return y


def softmax_backward(
    grad: Tensor, y: Tensor, dim: int, log: bool, scale: float, causal: bool, masked: bool, dtype: torch.dtype
) -> Tensor:
    """As `reference.reducing.softmax_backward`; a narrower gradient is rounded in the kernel."""
    shape = y.shape
    grad_x = torch.empty(shape, dtype=dtype, device=y.device)
    if y.numel() == 0:
        return grad_x
    outer, n, inner = sizes = split(shape, dim)
    y = y.contiguous()
    grad, stride = _rows(grad, y, sizes)
    flags = {"LOG": log, "CAUSAL": causal, "MASKED": masked}
    flags["ALIGN"] = gcd(n if inner == 1 else inner, stride, _ALIGN)
    skew = {"SKEW": 1 if causal else _skew(n, stride, y)}
    given = (float(scale), max(1, queries(shape, dim, causal)))
    kernels = reducing_backward
    with _guard(y.device):
        if inner > 1:
            tile, once = _columns(n, inner, y)
            kernels.softmax_columns[(outer * -(-inner // tile.inner),)](
                grad, y, grad_x, n, inner, stride, *given, **flags, ONCE=once, BLOCK_N=tile.outer,
                BLOCK_INNER=tile.inner, num_warps=tile.num_warps, enable_fp_fusion=False,
            )  # fmt: skip
        elif n + skew["SKEW"] - 1 > _longest(y):
            grid, block, partial, done, counts = _chunks(outer, n + skew["SKEW"] - 1, y, 1, 2)
            kernels.softmax_long[grid](
                grad, y, grad_x, partial, done, *counts, n, stride, *given, **flags, **skew, FULL=n % block == 0, BLOCK=block,
                PARTS=min(_PARTS, _power(counts[1])), TICKET=TICKET,
                KEEP_IN=EVICT[0], LET_GO=EVICT[1], num_warps=_warps(block),
                enable_fp_fusion=False,
            )  # fmt: skip
        else:
            tile = _short(outer, n + skew["SKEW"] - 1, y)
            kernels.softmax_rows[(-(-outer // tile.outer),)](
                grad, y, grad_x, outer, n, stride, *given, **flags, **skew, FULL=n == tile.inner, BLOCK_ROWS=tile.outer,
                BLOCK_COLS=tile.inner, num_warps=tile.num_warps, enable_fp_fusion=False,
            )  # fmt: skip
    return grad_x


def _rows(x: Tensor, out: Tensor, sizes: tuple[int, int, int]) -> tuple[Tensor, int]:
    """`x`, copied unless it lies as rows of `out` do, and the distance between its outer indices."""
    outer, n, inner = sizes
    if x.is_contiguous():
        return x, n * inner
    geometry = plan(x, out)
    if geometry is not None and geometry.rows == outer and geometry.cols == n * inner:
        return x, geometry.strides[0]
    return x.contiguous(), n * inner


def _longest(y: Tensor) -> int:
    return min(_ROW_ELEMENTS, _ROW_BYTES // y.element_size())


def _skew(n: int, stride: int, y: Tensor) -> int:
    """The elements of a vector if rows of `n` do not begin at vectors, and are worth finding those; else 1."""
    vector = _VECTOR_BYTES // y.element_size()
    return vector if n == stride and n >= _LEAST_SKEWED and n % vector and n % 2 else 1


def _power(size: int) -> int:
    """The least power of two that holds `size`."""
    return 1 << (size - 1).bit_length()


def _warps(elements: int) -> int:
    return max(1, min(_MAX_WARPS, elements // _THREAD_ELEMENTS // 32))


def _short(rows: int, n: int, y: Tensor) -> _Tile:
    """As many rows of one block as fill a tile; one, where rows may be skewed."""
    cols = _power(n)
    block_rows = 1 if n >= _LEAST_SKEWED else max(1, min(_power(rows), _TILE_BYTES // y.element_size() // cols))
    return _Tile(block_rows, cols, _warps(block_rows * cols))


def _columns(n: int, inner: int, y: Tensor) -> tuple[_Tile, bool]:
    """A tile of (n, inner) with all of n, as long as that leaves whole cache lines along inner; else a part of n."""
    line = min(_power(inner), _LINE_BYTES // y.element_size())
    least = max(1, line // 4)
    once = _power(n) * least <= _longest(y)
    elements = _TILE_BYTES // y.element_size()
    if once:
        width = min(line, _longest(y) // _power(n))
        width = max(width, min(_power(inner), elements // _power(n)))
        tile = _power(n), width
    else:
        tile = max(1, 2 * elements // line), line
    return _Tile(*tile, _warps(tile[0] * tile[1])), once


def _chunks(
    rows: int, n: int, y: Tensor, kept: int, inputs: int
) -> tuple[tuple[int], int, Tensor, Tensor, tuple[int, int, int]]:
    """For rows longer than a tile: the grid, the chunk, memory for sums and counts, and (chunks, chunks of a row, lag)."""
    block = _CHUNK_BYTES // y.element_size()
    splits = -(-n // block)
    chunks = rows * splits
    # What lies between a chunk's two readings fills a third of the cache.
    lag = min(chunks, splits + _cache_bytes(y.device) // 3 // (inputs * _CHUNK_BYTES))
    partial = torch.empty(
        kept * chunks, dtype=torch.float64 if y.dtype == torch.float64 else torch.float32, device=y.device
    )
    done = torch.zeros(rows + 1, dtype=torch.int32, device=y.device)
    return (chunks + lag,), block, partial, done, (chunks, splits, lag)


@cache
def _cache_bytes(device: torch.device) -> int:
    """Of the device's L2 cache."""
    properties: Any = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return getattr(properties, "L2_cache_size", 0) or 2**23
