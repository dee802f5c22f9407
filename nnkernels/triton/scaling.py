"""The product with a broadcast factor in Triton: one pass each way, and a small kernel for what partial sums are left.

A tensor is `batch` x `rows` x `cols` adjacent elements (`contracts.scaling.Frame`). A factor is that of a tile's column
or row, so that f is computed once for each, not for each element. Backward goes along the dimension that a factor is
constant over: a program walks `steps` tiles, down the rows or along the columns, and leaves one partial sum for each of
its factors. Where it has seen all that a factor meets, it finishes that sum itself.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..contracts.computing import wide_dtype
from ..contracts.inner import Inner
from ..contracts.scaling import Frame
from ..recording import launch
from ..registry import elementwise
from . import hardware
from .activations import FORMULAS
from .tiles import times
from .widths import power_of_two, tile_width

_NUM_WARPS = 4
_TILE_BYTES = 4096  # of each operand: two 16-byte loads in flight for each thread
# Of a tile whose columns have factors of their own: more rows of it instead. Sums of columns are exchanged between
# warps through shared memory, and the wider a tile is, the more of its columns fall on one bank.
_MOST_COLS, _MOST_SUMMED_COLS = 256, 64
_STEPS = 8  # tiles of a program, for which it computes its factors once
_FEW_PROGRAMS = 512  # enough for a GPU
_PROGRAMS = 4096  # that sum; how many there are may not depend on the device, or the sums would
_STAGES = 3
_PARTIALS_TILE = (64, 16)


class _Tiles(NamedTuple):
    """How programs share a tensor: `parts` of them share a factor."""

    programs: int
    parts: int
    steps: int
    vector: int
    block_rows: int
    block_cols: int


def _tiles(frame: Frame, size: int, sums: bool) -> _Tiles:
    """For elements of `size` bytes."""
    elements = _TILE_BYTES // size
    most = _MOST_SUMMED_COLS if sums else _MOST_COLS
    block_cols = tile_width(frame.cols, min(elements, most) if frame.by_columns else elements)
    block_rows = min(power_of_two(frame.rows), elements // block_cols)
    down, across = -(-frame.rows // block_rows), -(-frame.cols // block_cols)
    along, beside = (down, across) if frame.by_columns else (across, down)
    tiles = frame.batch * down * across
    steps = min(along, max(1, min(_STEPS, tiles // _FEW_PROGRAMS), tiles // _PROGRAMS)) if sums else 1
    parts = -(-along // steps)
    return _Tiles(frame.batch * beside * parts, parts, steps, math.gcd(frame.cols, 16 // size), block_rows, block_cols)


@triton.jit
def _load(pointers, mask, COMPUTE: tl.constexpr):
    x = tl.load(pointers, mask=mask, other=0.0)
    if pointers.dtype.element_ty.primitive_bitwidth == 16:  # between 16 and 64 bits machines have no conversion
        x = x.to(tl.float32)
    return x.to(COMPUTE)


@triton.jit
def _store(pointers, y, mask):
    if pointers.dtype.element_ty.primitive_bitwidth == 16:
        y = y.to(tl.float32)
    tl.store(pointers, y.to(pointers.dtype.element_ty), mask=mask)


@triton.jit
def _first(rows, cols, steps, BY_COLUMNS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr):
    """This program's batch index, first row and first column, and the number of its share of its factors' sums."""
    program = tl.program_id(0).to(tl.int64)
    col_span, row_span = BLOCK_COLS, BLOCK_ROWS * steps
    if not BY_COLUMNS:
        col_span, row_span = BLOCK_COLS * steps, BLOCK_ROWS
    across, down = tl.cdiv(cols, col_span), tl.cdiv(rows, row_span)
    col_part = program % across
    row_part = program // across % down
    return program // across // down, row_part * row_span, col_part * col_span, row_part if BY_COLUMNS else col_part


@triton.jit
def _factors(
    scale_ptr, batch, first_row, first_col, rows, cols, factors, COMPUTE: tl.constexpr, BY_COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """A tile's scales in a shape that broadcasts to it, their numbers, and which of them there are."""
    if BY_COLUMNS:
        col = first_col + tl.arange(0, BLOCK_COLS)[None, :]
        there = col < cols
        number = batch * cols + col
    else:
        row = first_row + tl.arange(0, BLOCK_ROWS)[:, None]
        there = row < rows
        number = row % factors
    return _load(scale_ptr + number, there, COMPUTE), number, there


@triton.jit
def _tile(
    batch, first_row, first_col, rows, cols, VECTOR: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr
):
    """The places of a tile's elements, and its mask, of which VECTOR adjacent elements are always alike."""
    row, col = tl.arange(0, BLOCK_ROWS)[:, None], tl.arange(0, BLOCK_COLS)[None, :]
    rows_left = tl.minimum(rows - first_row, BLOCK_ROWS).to(tl.int32)
    units_left = (tl.minimum(cols - first_col, BLOCK_COLS) // VECTOR).to(tl.int32)
    units = cols // VECTOR  # so that the compiler sees that rows begin where vectors do
    at = ((batch * rows + first_row + row) * units) * VECTOR + (first_col + col)
    return at, (row < rows_left) & (col < units_left * VECTOR)


@triton.jit
def _forward(
    x_ptr, scale_ptr, residual_ptr, y_ptr, a: tl.float64, b: tl.float64, rows, cols, factors, VALUE: tl.constexpr,
    BY_COLUMNS: tl.constexpr, VECTOR: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    COMPUTE: tl.constexpr = tl.float64 if y_ptr.dtype.element_ty.primitive_bitwidth == 64 else tl.float32
    batch, row, col, _part = _first(rows, cols, 1, BY_COLUMNS, BLOCK_ROWS, BLOCK_COLS)
    at, mask = _tile(batch, row, col, rows, cols, VECTOR, BLOCK_ROWS, BLOCK_COLS)
    x = _load(x_ptr + at, mask, COMPUTE)
    scale, _number, _there = _factors(
        scale_ptr, batch, row, col, rows, cols, factors, COMPUTE, BY_COLUMNS, BLOCK_ROWS, BLOCK_COLS
    )
    y = x * VALUE(scale, tl.full((), a, COMPUTE), tl.full((), b, COMPUTE), False)
    if residual_ptr is not None:
        y += _load(residual_ptr + at, mask, COMPUTE)
    _store(y_ptr + at, y, mask)


@triton.jit(do_not_specialize=["steps"])
def _backward(
    grad_ptr, x_ptr, scale_ptr, grad_x_ptr, grad_scale_ptr, partial_ptr, a: tl.float64, b: tl.float64, rows, cols,
    factors, steps, VALUE: tl.constexpr, D1: tl.constexpr, MASKS: tl.constexpr, BY_COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """With `grad_scale_ptr` the sums are whole, with `partial_ptr` they are shares: [batch, part, factor]."""
    COMPUTE: tl.constexpr = tl.float64 if grad_ptr.dtype.element_ty.primitive_bitwidth == 64 else tl.float32
    SUMS: tl.constexpr = grad_scale_ptr is not None or partial_ptr is not None
    batch, row, col, part = _first(rows, cols, steps, BY_COLUMNS, BLOCK_ROWS, BLOCK_COLS)
    scale, number, there = _factors(
        scale_ptr, batch, row, col, rows, cols, factors, COMPUTE, BY_COLUMNS, BLOCK_ROWS, BLOCK_COLS
    )
    a, b = tl.full((), a, COMPUTE), tl.full((), b, COMPUTE)
    factor = VALUE(scale, a, b, False)
    total = tl.zeros([BLOCK_ROWS, BLOCK_COLS], COMPUTE)
    for step in tl.range(0, steps, num_stages=STAGES):
        if BY_COLUMNS:
            at, mask = _tile(batch, row + step * BLOCK_ROWS, col, rows, cols, VECTOR, BLOCK_ROWS, BLOCK_COLS)
        else:
            at, mask = _tile(batch, row, col + step * BLOCK_COLS, rows, cols, VECTOR, BLOCK_ROWS, BLOCK_COLS)
        grad = _load(grad_ptr + at, mask, COMPUTE)
        if SUMS:
            total += grad * _load(x_ptr + at, mask, COMPUTE)
        if grad_x_ptr is not None:
            _store(grad_x_ptr + at, grad * factor, mask)
    if SUMS:
        total = tl.sum(total, 0 if BY_COLUMNS else 1, keep_dims=True)
    if grad_scale_ptr is not None:
        _store(grad_scale_ptr + number, times(total, D1(scale, a, b, False), MASKS), there)
    if partial_ptr is not None:
        if BY_COLUMNS:
            parts = tl.cdiv(rows, BLOCK_ROWS * steps)
            place = (batch * parts + part) * cols + col + tl.arange(0, BLOCK_COLS)[None, :]
        else:
            place = part * rows + row + tl.arange(0, BLOCK_ROWS)[:, None]
        tl.store(partial_ptr + place, total, mask=there)


@triton.jit(do_not_specialize=["parts"])
def _add_up(
    partial_ptr, scale_ptr, grad_scale_ptr, a: tl.float64, b: tl.float64, parts, width, D1: tl.constexpr,
    MASKS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """f'(scale) times the sums over `parts`, in an order that their number alone decides: [batch, width]."""
    COMPUTE: tl.constexpr = partial_ptr.dtype.element_ty
    blocks = tl.cdiv(width, BLOCK_COLS)
    program = tl.program_id(0).to(tl.int64)
    batch, col = program // blocks, program % blocks * BLOCK_COLS + tl.arange(0, BLOCK_COLS)[None, :]
    there = col < width
    total = tl.zeros([BLOCK, BLOCK_COLS], COMPUTE)
    for first in range(0, parts, BLOCK):
        part = first + tl.arange(0, BLOCK)[:, None]
        at = (batch * parts + part) * width + col
        total += tl.load(partial_ptr + at, mask=(part < parts) & there, other=0.0)
    scale = _load(scale_ptr + batch * width + col, there, COMPUTE)
    slope = D1(scale, tl.full((), a, COMPUTE), tl.full((), b, COMPUTE), False)
    found = times(tl.sum(total, 0, keep_dims=True), slope, MASKS)
    _store(grad_scale_ptr + batch * width + col, found, there)


def scale_act(
    inner: Inner, x: Tensor, scale: Tensor, residual: Tensor | None, frame: Frame, dtype: torch.dtype
) -> Tensor:
    y = torch.empty_like(x, dtype=dtype)
    tiles = _tiles(frame, y.element_size(), False)
    with hardware.guard(x.device):
        launch(_forward, (tiles.programs,))(
            x, scale, residual, y, inner.a, inner.b, frame.rows, frame.cols, frame.factors, FORMULAS[inner.name].value,
            frame.by_columns, *tiles[3:], num_warps=_NUM_WARPS,
        )  # fmt: skip
    return y


def scale_act_backward(
    inner: Inner, grad: Tensor, x: Tensor, scale: Tensor, frame: Frame, wants_input: bool, wants_scale: bool
) -> tuple[Tensor | None, Tensor | None]:
    tiles = _tiles(frame, grad.element_size(), wants_scale)
    repeats = 1 if frame.by_columns else frame.rows // frame.factors
    parts, width = tiles.parts * repeats, frame.cols if frame.by_columns else frame.factors
    grad_x = torch.empty_like(x) if wants_input else None
    grad_scale = torch.empty_like(scale) if wants_scale else None
    partial = None
    if wants_scale and parts > 1:
        wide = wide_dtype(grad.dtype)
        partial = torch.empty(frame.batch, parts, width, dtype=wide, device=x.device)
    formula, masks = FORMULAS[inner.name], elementwise(inner.name).masks
    with hardware.guard(x.device):
        launch(_backward, (tiles.programs,))(
            grad, x, scale, grad_x, grad_scale if partial is None else None, partial, inner.a, inner.b, frame.rows,
            frame.cols, frame.factors, tiles.steps, formula.value, formula.d1, masks, frame.by_columns, *tiles[3:],
            _STAGES, num_warps=_NUM_WARPS,
        )  # fmt: skip
        if partial is not None:
            block, block_cols = _PARTIALS_TILE
            launch(_add_up, (frame.batch * -(-width // block_cols),))(
                partial, scale, grad_scale, inner.a, inner.b, parts, width, formula.d1, masks, block, block_cols,
                num_warps=_NUM_WARPS,
            )  # fmt: skip
    return grad_x, grad_scale
