"""bias, activation, dropout and residual in one pass each way, in Triton."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..fusing import Inner
from ..reference.fused import ALONG_COLS, ALONG_NOTHING, Matrix
from ..reference.random import threshold
from ..registry import elementwise
from .activations import FORMULAS
from .backend import _guard
from .kernels import _load, _store, _times
from .philox import words

_NUM_WARPS = 4
_TILE_BYTES = 8192  # of each operand: four 16-byte loads in flight for each thread
_DROPPED_TILE_BYTES = 4096  # with random numbers, whose words take registers
# Where columns are summed, one load in flight and a loop over rows: on an H100 larger tiles spill and reach 0.4 to 0.75
# of the copy's bandwidth, these 0.81 to 0.86.
_SUM_TILE_BYTES = 2048
_SUM_ROWS = 64


@triton.jit
def _tile_at(first_row, first_col, rows, cols, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr):
    """A tile's rows, its elements' places as a 64-bit one for each row plus a 32-bit one for each column, its mask, and
    whether it is full."""
    row = first_row + tl.arange(0, BLOCK_ROWS)[:, None]
    col = tl.arange(0, BLOCK_COLS)[None, :]
    rows_left = tl.minimum(rows - first_row, BLOCK_ROWS).to(tl.int32)
    cols_left = tl.minimum(cols - first_col, BLOCK_COLS).to(tl.int32)
    mask = (tl.arange(0, BLOCK_ROWS)[:, None] < rows_left) & (col < cols_left)
    return row, row * cols + first_col, col, cols_left, mask, (rows_left == BLOCK_ROWS) & (cols_left == BLOCK_COLS)


@triton.jit
def _pre_activation(x, bias_ptr, row, first_col, col, cols_left, channels, ALONG: tl.constexpr, COMPUTE: tl.constexpr):
    if ALONG == 1:
        return x + tl.load(bias_ptr + first_col + col, mask=col < cols_left, other=0.0).to(COMPUTE)
    elif ALONG == 2:
        return x + tl.load(bias_ptr + row % channels).to(COMPUTE)
    else:
        return x


@triton.jit
def _kept(seed_ptr, number, least, scale, ROWS: tl.constexpr, COLS: tl.constexpr, EACH: tl.constexpr):
    """`scale` where the element is kept, else 0."""
    word = words(tl.load(seed_ptr), number, ROWS, COLS, EACH)
    return tl.where(word >= tl.full((), least, tl.uint32), scale, 0.0)


@triton.jit
def _forward(
    x_ptr,
    bias_ptr,
    residual_ptr,
    seed_ptr,
    y_ptr,
    a: tl.float64,
    b: tl.float64,
    least: tl.int64,
    scale: tl.float64,
    rows,
    cols,
    padded,
    channels,
    VALUE: tl.constexpr,
    ALONG: tl.constexpr,
    DROPS: tl.constexpr,
    ADDS: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    FAST: tl.constexpr = DTYPE.primitive_bitwidth == 16
    COMPUTE: tl.constexpr = tl.float64 if DTYPE.primitive_bitwidth == 64 else tl.float32
    EACH: tl.constexpr = 8 if FAST else 4
    tiles = tl.cdiv(cols, BLOCK_COLS)
    program = tl.program_id(0)
    first_row = (program // tiles).to(tl.int64) * BLOCK_ROWS
    first_col = (program % tiles).to(tl.int64) * BLOCK_COLS
    row, at, col, cols_left, mask, full = _tile_at(first_row, first_col, rows, cols, BLOCK_ROWS, BLOCK_COLS)
    x = _load(x_ptr + at + col, mask, full, COMPUTE, EVEN)
    if ADDS:
        residual = _load(residual_ptr + at + col, mask, full, COMPUTE, EVEN)
    z = _pre_activation(x, bias_ptr, row, first_col, col, cols_left, channels, ALONG, COMPUTE)
    y = VALUE(z, tl.full((), a, COMPUTE), tl.full((), b, COMPUTE), FAST)
    if DROPS:
        number = row * padded + first_col
        y *= _kept(seed_ptr, number, least, tl.full((), scale, COMPUTE), BLOCK_ROWS, BLOCK_COLS, EACH)
    if ADDS:
        y += residual
    _store(y_ptr + at + col, y, mask, full, EVEN)


@triton.jit
def _backward(
    grad_ptr,
    x_ptr,
    bias_ptr,
    seed_ptr,
    grad_x_ptr,
    partial_ptr,
    a: tl.float64,
    b: tl.float64,
    least: tl.int64,
    scale: tl.float64,
    rows,
    cols,
    padded,
    channels,
    D1: tl.constexpr,
    MASKS: tl.constexpr,
    HAS_X: tl.constexpr,
    ALONG: tl.constexpr,
    SUMS: tl.constexpr,
    DROPS: tl.constexpr,
    EVEN: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """One program: STEPS tiles, one below the other where columns are summed, else side by side."""
    DTYPE: tl.constexpr = grad_ptr.dtype.element_ty
    FAST: tl.constexpr = DTYPE.primitive_bitwidth == 16
    COMPUTE: tl.constexpr = tl.float64 if DTYPE.primitive_bitwidth == 64 else tl.float32
    EACH: tl.constexpr = 8 if FAST else 4
    DOWN: tl.constexpr = SUMS and ALONG == 1
    tiles = tl.cdiv(cols, BLOCK_COLS if DOWN else BLOCK_COLS * STEPS)
    program = tl.program_id(0)
    chunk = program // tiles
    first_row = chunk.to(tl.int64) * BLOCK_ROWS * (STEPS if DOWN else 1)
    first_col = (program % tiles).to(tl.int64) * BLOCK_COLS * (1 if DOWN else STEPS)
    a, b, scale = tl.full((), a, COMPUTE), tl.full((), b, COMPUTE), tl.full((), scale, COMPUTE)
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLS), COMPUTE)
    for step in range(STEPS):
        top = first_row + (step * BLOCK_ROWS if DOWN else 0)
        left = first_col + (0 if DOWN else step * BLOCK_COLS)
        row, at, col, cols_left, mask, full = _tile_at(top, left, rows, cols, BLOCK_ROWS, BLOCK_COLS)
        grad_x = _load(grad_ptr + at + col, mask, full, COMPUTE, EVEN)
        if HAS_X:
            x = _load(x_ptr + at + col, mask, full, COMPUTE, EVEN)
        if DROPS:
            grad_x *= _kept(seed_ptr, row * padded + left, least, scale, BLOCK_ROWS, BLOCK_COLS, EACH)
        if HAS_X:
            z = _pre_activation(x, bias_ptr, row, left, col, cols_left, channels, ALONG, COMPUTE)
            grad_x = _times(grad_x, D1(z, a, b, FAST), MASKS)
        _store(grad_x_ptr + at + col, grad_x, mask, full, EVEN)
        if SUMS:
            total += tl.where(mask, grad_x, 0.0)
    if SUMS and ALONG == 1:
        col = first_col + tl.arange(0, BLOCK_COLS)
        tl.store(partial_ptr + chunk.to(tl.int64) * cols + col, tl.sum(total, 0), mask=col < cols)
    elif SUMS:
        row = first_row + tl.arange(0, BLOCK_ROWS)
        tl.store(partial_ptr + row * tiles + program % tiles, tl.sum(total, 1), mask=row < rows)


def bias_act(
    inner: Inner, x: Tensor, bias: Tensor | None, residual: Tensor | None, p: float, seed: Tensor | None, matrix: Matrix
) -> Tensor:
    y = torch.empty_like(x)
    tile_bytes = _TILE_BYTES if seed is None else _DROPPED_TILE_BYTES
    block_rows, block_cols = _tile(matrix, tile_bytes // x.element_size())
    programs = -(-matrix.rows // block_rows) * -(-matrix.cols // block_cols)
    with _guard(x.device):
        _forward[(programs,)](
            x, bias, residual, seed, y, inner.a, inner.b, threshold(p), 1 / (1 - p),
            matrix.rows, matrix.cols, matrix.padded, matrix.channels, FORMULAS[inner.name].value,
            matrix.along if bias is not None else ALONG_NOTHING, seed is not None, residual is not None,
            matrix.cols % 16 == 0, block_rows, block_cols, num_warps=_NUM_WARPS,
        )  # fmt: skip
    return y


def bias_act_backward(
    inner: Inner,
    grad: Tensor,
    x: Tensor | None,
    bias: Tensor | None,
    p: float,
    seed: Tensor | None,
    matrix: Matrix,
    wants_bias: bool,
) -> tuple[Tensor, Tensor | None]:
    grad_x = torch.empty_like(grad)
    down = wants_bias and matrix.along == ALONG_COLS
    tile_bytes = _SUM_TILE_BYTES if wants_bias else _DROPPED_TILE_BYTES
    block_rows, block_cols = _tile(matrix, tile_bytes // grad.element_size())
    steps = max(1, _SUM_ROWS // block_rows) if down else min(8, -(-matrix.cols // block_cols)) if wants_bias else 1
    chunks = -(-matrix.rows // (block_rows * (steps if down else 1)))
    tiles = -(-matrix.cols // (block_cols * (1 if down else steps)))
    wide = torch.float64 if grad.dtype == torch.float64 else torch.float32
    shape = () if not wants_bias else (chunks, matrix.cols) if down else (matrix.rows, tiles)
    partial = torch.empty(shape, dtype=wide, device=grad.device)
    with _guard(grad.device):
        _backward[(chunks * tiles,)](
            grad, x, bias, seed, grad_x, partial, inner.a, inner.b, threshold(p), 1 / (1 - p),
            matrix.rows, matrix.cols, matrix.padded, matrix.channels, FORMULAS[inner.name].d1,
            elementwise(inner.name).masks, x is not None, matrix.along if bias is not None else ALONG_NOTHING,
            wants_bias, seed is not None, matrix.cols % 16 == 0, steps, block_rows, block_cols, num_warps=_NUM_WARPS,
        )  # fmt: skip
    if not wants_bias:
        return grad_x, None
    return grad_x, partial.sum(0) if down else partial.sum(1).view(-1, matrix.channels).sum(0)


def _tile(matrix: Matrix, elements: int) -> tuple[int, int]:
    block_cols: Any = max(8, min(elements, 1 << (matrix.cols - 1).bit_length()))
    return elements // block_cols, block_cols
