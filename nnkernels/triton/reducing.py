"""Launches the kernels of softmax and its kin: plans layouts, chooses tiles and warps."""

from __future__ import annotations

from math import gcd
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..contracts.computing import wide_dtype
from ..contracts.reducing import mask_layout, queries, split
from ..layout import plan
from ..recording import launch
from . import hardware, reducing_backward, reducing_kernels, reducing_odd, reducing_odd_backward, reducing_tiles
from .widths import power_of_two

_THREAD_ELEMENTS, _MAX_WARPS = 16, 32  # of each input, for two 16-byte loads of 16 bits
_ODD_ELEMENTS = 32  # where each is loaded alone
_COLUMN_ELEMENTS, _FEW_ELEMENTS = 32, 64  # of tiles of columns, and of those of few 16-bit rows
_ROW_ELEMENTS, _ROW_BYTES = 16384, 65536  # longer rows go in chunks
_TILE_BYTES = 8192  # of several short rows, or of columns, in one program
_SIBLINGS = 4  # as many rows in work at once have to fit on the device, one program to an SM
_CHUNK_BYTES, _ODD_CHUNK_BYTES = 16384, 8192  # of a long row, and of one whose elements are loaded alone
_LONG_FORWARD, _LONG_BACKWARD = {2: 64, 4: 32, 8: 16}, 32  # elements of such a chunk in a thread, by their bytes
_LONG_ODD_FORWARD = {2: 64, 4: 16}  # beside a row's ends
_LINE_BYTES, _WORD_BYTES, _VECTOR_BYTES = 128, 4, 16
_LEAST_VECTORS = 4  # of a row of odd length, for it to be moved in vectors
_WARP_THREADS = 32
_ODD_WARPS = 16  # at most, of its forward kernel: two programs fit on a multiprocessor, of a longest row of 16 bits
_ALIGN = 16
_FEW = 64  # of n, that threads hold whole
_NONE, _KEEP, _ADD = range(3)


class _Tile(NamedTuple):
    outer: int
    inner: int
    num_warps: int


def softmax(
    x: Tensor, dim: int, log: bool, scale: float, mask: Tensor | None, causal: bool, dtype: torch.dtype
) -> Tensor:
    return _forward(x, None, dim, log, scale, mask, causal, dtype)


def log_softmax(
    x: Tensor, dim: int, scale: float, mask: Tensor | None, causal: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    outer, _, inner = split(x.shape, dim)
    statistics = torch.empty(2, outer, inner, dtype=torch.float32, device=x.device)
    return _forward(x, statistics, dim, True, scale, mask, causal, dtype), statistics


def softmax_backward(
    grad: Tensor, y: Tensor, dim: int, log: bool, scale: float, causal: bool, masked: bool, dtype: torch.dtype
) -> Tensor:
    grad_x = torch.empty(y.shape, dtype=dtype, device=y.device)
    return _backward(grad, y, grad_x, None, dim, log, scale, None, causal, masked)


def log_softmax_backward(
    grad: Tensor, x: Tensor, statistics: Tensor, dim: int, scale: float, mask: Tensor | None, causal: bool
) -> Tensor:
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    return _backward(grad, x, grad_x, statistics, dim, True, scale, mask, causal, causal or mask is not None)


def _forward(
    x: Tensor, statistics: Tensor | None, dim: int, log: bool, scale: float, mask: Tensor | None, causal: bool,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    shape = x.shape
    y = torch.empty(shape, dtype=dtype, device=x.device)
    if y.numel() == 0:
        return y
    if torch.promote_types(x.dtype, dtype) != dtype:
        x = x.to(dtype)
    sizes = split(shape, dim)
    x, stride = _rows(x, y, sizes)
    mask, kind, (*along, inner_stride) = _masking(mask, x, dim)
    tops, norms = (y, y) if statistics is None else statistics
    flags = _logit_flags(scale, kind) | {"LOG": log, "CAUSAL": causal, "KEEPS": statistics is not None}
    given = (float(scale), max(1, queries(shape, dim, causal)), *along)
    if cols := _odd_cols((x, y), sizes, (stride,), kind != _NONE or causal):
        told = {name: flags[name] for name in ("LOG", "SCALED", "NEGATIVE", "KEEPS")}
        each = _LONG_ODD_FORWARD[y.element_size()]
        _launch_odd(reducing_odd, (x, y, tops, norms), *sizes[:2], cols, scale, told, each, _ODD_WARPS)
        return y
    tensors = (x, y, mask, tops, norms)
    each = _LONG_FORWARD[y.element_size()]
    _launch(reducing_kernels, tensors, sizes, (stride,), given, (inner_stride,), flags, each)
    return y


def _backward(
    grad: Tensor, kept: Tensor, grad_x: Tensor, statistics: Tensor | None, dim: int, log: bool, scale: float,
    mask: Tensor | None, causal: bool, masked: bool,
) -> Tensor:  # fmt: skip
    """`kept` is the output, or, where there are statistics, the input."""
    shape = kept.shape
    if kept.numel() == 0:
        return grad_x
    sizes = split(shape, dim)
    kept, kept_stride = _rows(kept, grad_x, sizes)
    grad, grad_stride = _rows(grad, grad_x, sizes)
    mask, kind, (*along, inner_stride) = _masking(mask, kept, dim)
    tops, norms = (kept, kept) if statistics is None else statistics
    flags = _logit_flags(scale, kind) | {"LOG": log, "CAUSAL": causal, "MASKED": masked}
    flags["FROM_INPUT"] = statistics is not None
    strides = (grad_stride, kept_stride)
    if cols := _odd_cols((grad, kept, grad_x), sizes, strides, masked):
        told = {name: flags[name] for name in ("LOG", "SCALED", "NEGATIVE", "FROM_INPUT")}
        odd = (grad, kept, grad_x, tops, norms)
        _launch_odd(reducing_odd_backward, odd, *sizes[:2], cols, scale, told, _LONG_BACKWARD, _MAX_WARPS)
        return grad_x
    given = (float(scale), max(1, queries(shape, dim, causal)), *along)
    tensors = (grad, kept, grad_x, mask, tops, norms)
    _launch(reducing_backward, tensors, sizes, strides, given, (inner_stride,), flags, _LONG_BACKWARD)
    return grad_x


def _masking(mask: Tensor | None, x: Tensor, dim: int) -> tuple[Tensor, int, tuple[int, ...]]:
    """The mask, `x` where there is none, its kind and its layout."""
    if mask is None:
        return x, _NONE, (1, 1, 0, 0, 0, 0, 0)
    kind = _KEEP if mask.dtype == torch.bool else _ADD
    mask, digits, strides, *rest = mask_layout(mask, x.shape, dim)
    mask = mask.view(torch.uint8) if kind == _KEEP else mask
    return mask, kind, (*digits[1:], *strides, *rest)


def _logit_flags(scale: float, kind: int) -> dict[str, Any]:
    return {"MASK": kind, "SCALED": abs(scale) != 1, "NEGATIVE": scale < 0 and kind != _ADD}


def _launch(
    kernels: Any, tensors: tuple[Tensor, ...], sizes: tuple[int, int, int], strides: tuple[int, ...],
    given: tuple[Any, ...], for_columns: tuple[int, ...], flags: dict[str, Any], long_elements: int,
) -> None:  # fmt: skip
    """`strides` are the distances between the outer indices of the inputs."""
    outer, n, inner = sizes
    y = tensors[1]
    align = gcd(n if inner == 1 else inner, *strides, _ALIGN)
    block = (_ODD_CHUNK_BYTES if align == 1 else _CHUNK_BYTES) // y.element_size()
    splits = -(-n // block) if n > _longest(y) else 1
    with hardware.guard(y.device):
        if inner > 1 or (n > _longest(y) and splits > _processors(y.device) // _SIBLINGS):
            tile, once, align = _columns(n, inner, y, align)
            launch(kernels.softmax_columns, (outer * -(-inner // tile.inner),))(
                *tensors, n, inner, *strides, *given, *for_columns, **flags, ALIGN=align, ONCE=once, BLOCK_N=tile.outer,
                BLOCK_INNER=tile.inner, num_warps=tile.num_warps, enable_fp_fusion=False,
            )  # fmt: skip
        elif n > _longest(y):
            launch(kernels.softmax_long, (outer * splits,))(
                *tensors, *_scratch(outer, splits, y), splits, n, *strides, *given, **flags, ALIGN=align,
                FULL=n % block == 0, BLOCK=block, PARTS=power_of_two(splits), num_warps=_warps(block, long_elements),
                enable_fp_fusion=False,
            )  # fmt: skip
        else:
            tile = _short(outer, n, y, align)
            launch(kernels.softmax_rows, (-(-outer // tile.outer),))(
                *tensors, outer, n, *strides, *given, **flags, ALIGN=align, FULL=n == tile.inner,
                BLOCK_ROWS=tile.outer, BLOCK_COLS=tile.inner, num_warps=tile.num_warps, enable_fp_fusion=False,
            )  # fmt: skip


def _odd_cols(tensors: tuple[Tensor, ...], sizes: tuple[int, int, int], strides: tuple[int, ...], masked: bool) -> int:
    """The columns of a row's whole vectors; 0 unless `reducing_odd` serves.

    It takes contiguous rows of odd length, which begin between the same elements of a vector in all tensors. Where a
    program has several rows, each of which several warps share, they would wait for each other twice as often: an H200
    took 1.2 times as long for rows of 1,001 as without it.
    """
    outer, n, inner = sizes
    like = tensors[0]
    size = like.element_size()
    alike = all(tensor.element_size() == size for tensor in tensors) and all(stride == n for stride in strides)
    if masked or inner > 1 or n % 2 == 0 or size > 4 or not alike:
        return 0
    vector = _VECTOR_BYTES // size
    cols = n // vector * vector
    if cols < _LEAST_VECTORS * vector:
        return 0
    if cols > _longest(like):
        return cols if -(-cols * size // _CHUNK_BYTES) <= _processors(like.device) // _SIBLINGS else 0
    tile = _short(outer, cols, like, _ALIGN)
    return 0 if tile.outer > 1 and tile.inner > _WARP_THREADS * vector else cols


def _launch_odd(
    kernels: Any, tensors: tuple[Tensor, ...], outer: int, n: int, cols: int, scale: float, flags: dict[str, Any],
    long_elements: int, most_warps: int,
) -> None:  # fmt: skip
    """`cols` are those that `_odd_cols` says."""
    like = tensors[0]
    with hardware.guard(like.device):
        if cols > _longest(like):
            block = _CHUNK_BYTES // like.element_size()
            splits = -(-cols // block)
            launch(kernels.softmax_long, (outer * splits,))(
                *tensors, *_scratch(outer, splits, like), splits, n, float(scale), **flags, BLOCK=block,
                PARTS=power_of_two(splits), num_warps=_warps(block, long_elements), enable_fp_fusion=False,
            )  # fmt: skip
        else:
            tile = _short(outer, cols, like, _ALIGN)
            launch(kernels.softmax_rows, (-(-outer // tile.outer),))(
                *tensors, outer, n, float(scale), **flags, BLOCK_ROWS=tile.outer, BLOCK_COLS=tile.inner,
                num_warps=min(tile.num_warps, most_warps), enable_fp_fusion=False,
            )  # fmt: skip


def _scratch(outer: int, splits: int, y: Tensor) -> tuple[Tensor, Tensor]:
    """Where programs that share rows of `y` exchange their sums, and counters."""
    partial = torch.empty(reducing_tiles.KEPT.value * outer * splits, dtype=wide_dtype(y.dtype), device=y.device)
    return partial, torch.zeros(1 + outer, dtype=torch.int32, device=y.device)


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
    """The elements of a row that registers hold."""
    return min(_ROW_ELEMENTS, _ROW_BYTES // y.element_size())


def _warps(elements: int, of_thread: int) -> int:
    return max(1, min(_MAX_WARPS, elements // of_thread // 32))


def _short(rows: int, n: int, y: Tensor, align: int) -> _Tile:
    """As many rows of one block as fill a tile."""
    cols = power_of_two(n)
    block_rows = max(1, min(power_of_two(rows), _TILE_BYTES // y.element_size() // cols))
    return _Tile(block_rows, cols, _warps(block_rows * cols, _ODD_ELEMENTS if align == 1 else _THREAD_ELEMENTS))


def _columns(n: int, inner: int, y: Tensor, align: int) -> tuple[_Tile, bool, int]:
    """A tile of (n, inner), whether it has all of n, and what to assume of the alignment along inner.

    It has all of n as long as that leaves a quarter of a cache line along inner. Where n is small, a thread takes
    one word of each row that is its warp's: it holds many elements of few columns, and has less to exchange.
    """
    most = _longest(y)
    line = min(power_of_two(inner), _LINE_BYTES // y.element_size())
    if n <= _FEW:
        of_thread = _FEW_ELEMENTS if y.element_size() == 2 else _COLUMN_ELEMENTS
        align = min(align, max(1, _WORD_BYTES // y.element_size()))
        return _Tile(power_of_two(n), line, _warps(power_of_two(n) * line, of_thread)), True, align
    if inner == 1:
        return _Tile(most, 1, _MAX_WARPS), False, 1
    once = power_of_two(n) * max(1, line // 4) <= most
    elements = _TILE_BYTES // y.element_size()
    tile = (power_of_two(n), min(line, most // power_of_two(n))) if once else (max(1, 2 * elements // line), line)
    return _Tile(*tile, _warps(tile[0] * tile[1], _COLUMN_ELEMENTS)), once, align


def _processors(device: torch.device) -> int:
    """How many programs surely run side by side; none under the interpreter, which runs each to its end."""
    return 0 if hardware.interpreted() else hardware.multiprocessors(device)
