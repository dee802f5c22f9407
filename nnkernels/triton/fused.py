"""bias, activation, dropout and residual in one pass each way, in Triton."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..contracts.computing import wide_dtype
from ..contracts.fused import ALONG_COLS, ALONG_NOTHING, Matrix
from ..contracts.inner import Inner
from ..contracts.random import threshold
from ..recording import launch
from ..registry import elementwise
from . import hardware
from .activations import FORMULAS
from .philox import words
from .tiles import load, store, times

_NUM_WARPS = 4
_TILE_BYTES = 4096  # of each operand: two 16-byte loads in flight for each thread
# Backward's sums take registers, so that one load is in flight; but the keys of random numbers cost a thread as much
# for a small tile. Where columns are summed all programs run at once, so many on a multiprocessor: on an H100 a single
# wave reaches 0.93 of the copy's bandwidth, programs of 64 rows, which fill 1.7 waves, 0.81.
_BACKWARD_TILE_BYTES, _DRAWING_TILE_BYTES = 2048, 4096
_WAVE, _DRAWING_WAVE = 8, 5


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
def _kept(seed, number, least, scale, ROWS: tl.constexpr, COLS: tl.constexpr, EACH: tl.constexpr):
    """`scale` where the element is kept, else 0."""
    word = words(seed, number, ROWS, COLS, EACH)
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
    x = load(x_ptr + at + col, mask, full, COMPUTE, EVEN)
    if ADDS:
        residual = load(residual_ptr + at + col, mask, full, COMPUTE, EVEN)
    z = _pre_activation(x, bias_ptr, row, first_col, col, cols_left, channels, ALONG, COMPUTE)
    y = VALUE(z, tl.full((), a, COMPUTE), tl.full((), b, COMPUTE), FAST)
    if DROPS:
        number = row * padded + first_col
        seed = tl.load(seed_ptr)
        y *= _kept(seed, number, least, tl.full((), scale, COMPUTE), BLOCK_ROWS, BLOCK_COLS, EACH)
    if ADDS:
        y += residual
    store(y_ptr + at + col, y, mask, full, EVEN)


@triton.jit
def _backward(
    grad_ptr,
    x_ptr,
    bias_ptr,
    seed_ptr,
    grad_x_ptr,
    partial_ptr,
    value_ptr,
    a: tl.float64,
    b: tl.float64,
    least: tl.int64,
    scale: tl.float64,
    rows,
    cols,
    padded,
    channels,
    VALUE: tl.constexpr,
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
    """One program: STEPS tiles side by side, whose rows are summed if SUMS; f(x + bias) again if it has a place."""
    DTYPE: tl.constexpr = grad_ptr.dtype.element_ty
    FAST: tl.constexpr = DTYPE.primitive_bitwidth == 16
    COMPUTE: tl.constexpr = tl.float64 if DTYPE.primitive_bitwidth == 64 else tl.float32
    EACH: tl.constexpr = 8 if FAST else 4
    tiles = tl.cdiv(cols, BLOCK_COLS * STEPS)
    program = tl.program_id(0)
    first_row = (program // tiles).to(tl.int64) * BLOCK_ROWS
    first_col = (program % tiles).to(tl.int64) * BLOCK_COLS * STEPS
    a, b, scale = tl.full((), a, COMPUTE), tl.full((), b, COMPUTE), tl.full((), scale, COMPUTE)
    if DROPS:
        seed = tl.load(seed_ptr)
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLS), COMPUTE)
    for step in range(STEPS):
        left = first_col + step * BLOCK_COLS
        row, at, col, cols_left, mask, full = _tile_at(first_row, left, rows, cols, BLOCK_ROWS, BLOCK_COLS)
        grad_x = load(grad_ptr + at + col, mask, full, COMPUTE, EVEN)
        if HAS_X:
            x = load(x_ptr + at + col, mask, full, COMPUTE, EVEN)
        if DROPS:
            grad_x *= _kept(seed, row * padded + left, least, scale, BLOCK_ROWS, BLOCK_COLS, EACH)
        if HAS_X:
            z = _pre_activation(x, bias_ptr, row, left, col, cols_left, channels, ALONG, COMPUTE)
            grad_x = times(grad_x, D1(z, a, b, FAST), MASKS)
            if value_ptr is not None:
                store(value_ptr + at + col, VALUE(z, a, b, FAST), mask, full, EVEN)
        store(grad_x_ptr + at + col, grad_x, mask, full, EVEN)
        if SUMS:
            total += tl.where(mask, grad_x, 0.0)
    if SUMS:
        row = first_row + tl.arange(0, BLOCK_ROWS)
        tl.store(partial_ptr + row * tiles + program % tiles, tl.sum(total, 1), mask=row < rows)


@triton.jit
def _backward_down(
    grad_ptr,
    x_ptr,
    bias_ptr,
    seed_ptr,
    grad_x_ptr,
    partial_ptr,
    value_ptr,
    a: tl.float64,
    b: tl.float64,
    least: tl.int64,
    scale: tl.float64,
    rows,
    cols,
    padded,
    steps,
    VALUE: tl.constexpr,
    D1: tl.constexpr,
    MASKS: tl.constexpr,
    HAS_X: tl.constexpr,
    DROPS: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """The same where columns are summed. A program goes down a strip of columns; between two of its tiles lies one of
    each other program of the strip, so that all of them together move through memory as a copy does. It loads a tile
    ahead."""
    DTYPE: tl.constexpr = grad_ptr.dtype.element_ty
    FAST: tl.constexpr = DTYPE.primitive_bitwidth == 16
    COMPUTE: tl.constexpr = tl.float64 if DTYPE.primitive_bitwidth == 64 else tl.float32
    EACH: tl.constexpr = 8 if FAST else 4
    strips = tl.cdiv(cols, BLOCK_COLS)
    program = tl.program_id(0)
    chunk = program // strips
    hop = tl.num_programs(0) // strips * BLOCK_ROWS
    first_row = chunk.to(tl.int64) * BLOCK_ROWS
    first_col = (program % strips).to(tl.int64) * BLOCK_COLS
    a, b, scale = tl.full((), a, COMPUTE), tl.full((), b, COMPUTE), tl.full((), scale, COMPUTE)
    line, col = tl.arange(0, BLOCK_ROWS)[:, None], tl.arange(0, BLOCK_COLS)[None, :]
    cols_left = tl.minimum(cols - first_col, BLOCK_COLS).to(tl.int32)
    inside, whole = col < cols_left, cols_left == BLOCK_COLS
    if HAS_X:
        if bias_ptr is not None:
            bias = tl.load(bias_ptr + first_col + col, mask=inside, other=0.0).to(COMPUTE)
        else:
            bias = tl.zeros((1, BLOCK_COLS), COMPUTE)
    start = first_row * cols + first_col
    grad_ptr += start
    grad_x_ptr += start
    if HAS_X:
        x_ptr += start
    if value_ptr is not None:
        value_ptr += start
    at = line * cols + col
    if DROPS:
        seed = tl.load(seed_ptr)
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLS), COMPUTE)

    lines_left = tl.minimum(rows - first_row, BLOCK_ROWS).to(tl.int32)
    mask, full = inside & (line < lines_left), whole & (lines_left == BLOCK_ROWS)
    grad = load(grad_ptr + at, mask, full, DTYPE, EVEN)
    x = load(x_ptr + at, mask, full, DTYPE, EVEN) if HAS_X else grad
    for _ in range(steps):
        this_grad, this_x, this_mask, this_full = grad, x, mask, full
        first_row += hop
        grad_ptr += hop.to(tl.int64) * cols
        if HAS_X:
            x_ptr += hop.to(tl.int64) * cols
        lines_left = tl.minimum(rows - first_row, BLOCK_ROWS).to(tl.int32)
        mask, full = inside & (line < lines_left), whole & (lines_left == BLOCK_ROWS)
        grad = load(grad_ptr + at, mask, full, DTYPE, EVEN)
        x = load(x_ptr + at, mask, full, DTYPE, EVEN) if HAS_X else grad

        grad_x = this_grad.to(COMPUTE)
        if DROPS:
            number = (first_row - hop + line) * padded + first_col
            grad_x *= _kept(seed, number, least, scale, BLOCK_ROWS, BLOCK_COLS, EACH)
        if HAS_X:
            z = this_x.to(COMPUTE) + bias
            grad_x = times(grad_x, D1(z, a, b, FAST), MASKS)
            if value_ptr is not None:
                store(value_ptr + at, VALUE(z, a, b, FAST), this_mask, this_full, EVEN)
                value_ptr += hop.to(tl.int64) * cols
        store(grad_x_ptr + at, grad_x, this_mask, this_full, EVEN)
        grad_x_ptr += hop.to(tl.int64) * cols
        total += tl.where(this_mask, grad_x, 0.0)
    col = first_col + tl.arange(0, BLOCK_COLS)
    tl.store(partial_ptr + chunk.to(tl.int64) * cols + col, tl.sum(total, 0), mask=col < cols)


def bias_act(
    inner: Inner, x: Tensor, bias: Tensor | None, residual: Tensor | None, p: float, seed: Tensor | None, matrix: Matrix
) -> Tensor:
    y = torch.empty_like(x)
    block_rows, block_cols = _tile(matrix, _TILE_BYTES // x.element_size())
    programs = -(-matrix.rows // block_rows) * -(-matrix.cols // block_cols)
    with hardware.guard(x.device):
        launch(_forward, (programs,))(
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
    return backward(inner, grad, x, bias, p, seed, matrix, wants_bias)


def backward(
    inner: Inner,
    grad: Tensor,
    x: Tensor | None,
    bias: Tensor | None,
    p: float,
    seed: Tensor | None,
    matrix: Matrix,
    wants_bias: bool,
    value: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """What `bias_act_backward` says, and f(x + bias) again, written to `value` if that is given."""
    grad_x = torch.empty_like(grad)
    drops = seed is not None
    down = wants_bias and matrix.along == ALONG_COLS
    tile_bytes, wave = (_DRAWING_TILE_BYTES, _DRAWING_WAVE) if drops else (_BACKWARD_TILE_BYTES, _WAVE)
    block_rows, block_cols = _tile(matrix, tile_bytes // grad.element_size())
    steps = min(8, -(-matrix.cols // block_cols)) if wants_bias and not down else 1
    tiles = -(-matrix.cols // (block_cols * steps))
    chunks = -(-matrix.rows // block_rows)
    if down:
        steps = -(-chunks // max(1, wave * hardware.multiprocessors(grad.device) // tiles))
        chunks = -(-chunks // steps)
    wide = wide_dtype(grad.dtype)
    shape = () if not wants_bias else (chunks, matrix.cols) if down else (matrix.rows, tiles)
    partial = torch.empty(shape, dtype=wide, device=grad.device)
    tensors = (grad, x, bias, seed, grad_x, partial, value)
    numbers = (inner.a, inner.b, threshold(p), 1 / (1 - p), matrix.rows, matrix.cols, matrix.padded)
    formula = (*FORMULAS[inner.name][:2], elementwise(inner.name).masks, x is not None)
    even = matrix.cols % 16 == 0
    with hardware.guard(grad.device):
        if down:
            launch(_backward_down, (chunks * tiles,))(
                *tensors, *numbers, steps, *formula, drops, even, block_rows, block_cols, num_warps=_NUM_WARPS
            )
        else:
            along = matrix.along if bias is not None else ALONG_NOTHING
            launch(_backward, (chunks * tiles,))(
                *tensors, *numbers, matrix.channels, *formula, along, wants_bias, drops, even, steps, block_rows,
                block_cols, num_warps=_NUM_WARPS,
            )  # fmt: skip
    if not wants_bias:
        return grad_x, None
    return grad_x, partial.sum(0) if down else partial.sum(1).view(-1, matrix.channels).sum(0)


def _tile(matrix: Matrix, elements: int) -> tuple[int, int]:
    block_cols: Any = max(8, min(elements, 1 << (matrix.cols - 1).bit_length()))
    return elements // block_cols, block_cols
