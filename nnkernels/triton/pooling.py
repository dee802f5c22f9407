"""Maxout in Triton; what each function computes and how winners are packed is told in `contracts/pooling.py`.

Two pairs of kernels. Where pieces are neighbours (`inner` is 1) and a power of two, a tile is one run of elements,
loaded 16 bytes at a time, in which pairs of neighbours compete, then pairs of winners. Otherwise an output element's
pieces are `inner` apart, and a tile is made of vectors of VEC neighbouring outputs, VEC being what divides `inner`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..contracts.pooling import width
from ..recording import launch
from . import hardware
from .packing import pack

_NUM_WARPS = 4
_THREADS = 32 * _NUM_WARPS
_IN_FLIGHT = 4  # 16-byte loads or stores for each thread where pieces lie apart
TILES = 2  # of as many, where they are neighbours
UNROLLED = tl.constexpr(16)
_INTEGERS = {8: torch.int8, 16: torch.int16, 32: torch.int32, 64: torch.int64}


def maxout(x: Tensor, y: Tensor, winners: Tensor | None, pieces: int, inner: int) -> None:
    _launch(forward_adjacent, forward_apart, (x, y), y.numel(), winners, pieces, inner, winners is not None)


def maxout_backward(grad: Tensor, winners: Tensor, grad_x: Tensor, pieces: int, inner: int) -> None:
    _launch(backward_adjacent, backward_apart, (grad, grad_x), grad.numel(), winners, pieces, inner)


def _launch(
    adjacent: Any,
    apart: Any,
    tensors: tuple[Tensor, Tensor],
    outputs: int,
    winners: Tensor | None,
    pieces: int,
    inner: int,
    *flags: bool,
) -> None:
    if outputs == 0:
        return
    bits, size = width(pieces), tensors[0].element_size()
    with hardware.guard(tensors[0].device):
        if is_adjacent(pieces, inner):
            block = adjacent_block(pieces, size)
            packed = tensors[0] if winners is None else winners
            launch(adjacent, (-(-outputs // (TILES * block)),))(
                *tensors, packed, outputs, pieces, bits, *flags, TILES, block, num_warps=_NUM_WARPS
            )
            return
        vec, vectors = apart_block(pieces, inner, size, backward=apart is backward_apart)
        unit = max(8, vec * bits)
        packed = tensors[0] if winners is None else winners.view(_INTEGERS[unit])
        count, cols = outputs // vec, inner // vec
        wide = count >= 2**31 - vectors
        launch(apart, (-(-count // vectors),))(
            *tensors, packed, count, cols, pieces, bits, unit, wide, *flags, vec, vectors, num_warps=_NUM_WARPS
        )


def is_adjacent(pieces: int, inner: int) -> bool:
    """Whether the kernels for neighbouring pieces serve."""
    return inner == 1 and pieces & (pieces - 1) == 0


def adjacent_block(pieces: int, size: int) -> int:
    """Output elements of a tile: one 16-byte vector of the input for each thread, so that no value changes threads
    between load and store; at least the 8 whose winners fill a byte."""
    return max(8, _THREADS * 16 // size // pieces)


def apart_block(pieces: int, inner: int, size: int, backward: bool = False) -> tuple[int, int]:
    """Elements of a vector, the most of 16 bytes that divide `inner`, and vectors of a tile."""
    vec = 16 // size
    while inner % vec:
        vec //= 2
    # Backward writes each piece's part of a tile in one go: long ones.
    each = 4 if backward else max(1, _IN_FLIGHT // pieces)
    return vec, _THREADS * each * (1 if vec > 1 else 2)


@triton.jit
def _wide(x):
    """x in a type that every GPU compares."""
    if x.dtype.primitive_bitwidth == 16:
        x = x.to(tl.float32)
    return x


@triton.constexpr_function
def log2(number):
    return number.bit_length() - 1


@triton.jit
def wins(x, y):
    """Whether a piece wins against one with a lower number: it is greater, or the first NaN."""
    return ~(x <= y) & (y == y)


@triton.jit
def _load(pointers, mask, full):
    """Without a mask where it would split the vectors of a full tile."""
    if full:
        x = tl.load(pointers)
    else:
        x = tl.load(pointers, mask=mask, other=0)
    return x


@triton.jit
def _store(pointers, x, mask, full):
    if full:
        tl.store(pointers, x)
    else:
        tl.store(pointers, x, mask=mask)


@triton.jit
def _compete(y, piece, LEVEL: tl.constexpr, PAIRS: tl.constexpr):
    even, odd = tl.split(tl.reshape(y, [PAIRS, 2]))
    even_piece, odd_piece = tl.split(tl.reshape(piece, [PAIRS, 2]))
    beats = wins(odd, even)
    return tl.where(beats, odd, even), tl.where(beats, odd_piece + (1 << LEVEL), even_piece)


@triton.jit(do_not_specialize=["outputs"])
def forward_adjacent(
    x_ptr,
    y_ptr,
    winners_ptr,
    outputs,
    PIECES: tl.constexpr,
    BITS: tl.constexpr,
    RECORD: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    LEVELS: tl.constexpr = log2(PIECES)
    PER: tl.constexpr = 8 // BITS
    first = tl.program_id(0).to(tl.int64) * (TILES * BLOCK)
    left = tl.minimum(outputs - first, TILES * BLOCK).to(tl.int32)
    full = left == TILES * BLOCK
    flat = tl.arange(0, BLOCK * PIECES)
    out = tl.arange(0, BLOCK)
    byte = tl.arange(0, BLOCK // PER)
    loaded = ()
    for tile in tl.static_range(TILES):  # all before the first store, behind which the compiler moves no load
        at = tile * BLOCK * PIECES + flat
        loaded = loaded + (_load(x_ptr + first * PIECES + at, at < left * PIECES, full),)  # type: ignore[assignment]
    for tile in tl.static_range(TILES):
        y = _wide(loaded[tile])
        piece = tl.zeros([BLOCK * PIECES], tl.int32)
        for level in tl.static_range(LEVELS):
            y, piece = _compete(y, piece, level, BLOCK * PIECES >> (level + 1))
        at = tile * BLOCK + out
        _store(y_ptr + first + at, y.to(y_ptr.dtype.element_ty), at < left, full)
        if RECORD:
            at = tile * (BLOCK // PER) + byte
            _store(winners_ptr + first // PER + at, pack(piece, BITS, 8, BLOCK).to(tl.uint8), at * PER < left, full)


@triton.jit(do_not_specialize=["outputs"])
def backward_adjacent(
    grad_ptr,
    grad_x_ptr,
    winners_ptr,
    outputs,
    PIECES: tl.constexpr,
    BITS: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    PER: tl.constexpr = 8 // BITS
    first = tl.program_id(0).to(tl.int64) * (TILES * BLOCK)
    left = tl.minimum(outputs - first, TILES * BLOCK).to(tl.int32)
    full = left == TILES * BLOCK
    flat = tl.arange(0, BLOCK * PIECES)
    out = tl.arange(0, BLOCK)
    byte = tl.arange(0, BLOCK // PER)
    number = tl.arange(0, PIECES)
    shifts = tl.arange(0, PER) * BITS
    grads = ()
    bytes = ()
    for tile in tl.static_range(TILES):
        at = tile * BLOCK + out
        grads = grads + (_load(grad_ptr + first + at, at < left, full),)  # type: ignore[assignment]
        at = tile * (BLOCK // PER) + byte
        bytes = bytes + (_load(winners_ptr + first // PER + at, at * PER < left, full),)  # type: ignore[assignment]
    for tile in tl.static_range(TILES):
        packed = bytes[tile].to(tl.int32)  # type: ignore[var-annotated]
        piece = tl.reshape((packed[:, None] >> shifts[None, :]) & ((1 << BITS) - 1), [BLOCK])
        grad_x = tl.where(piece[:, None] == number[None, :], grads[tile][:, None], 0.0)
        at = tile * BLOCK * PIECES + flat
        _store(grad_x_ptr + first * PIECES + at, tl.reshape(grad_x, [BLOCK * PIECES]), at < left * PIECES, full)


@triton.jit
def _apart(count, cols, WIDE: tl.constexpr, PIECES: tl.constexpr, VEC: tl.constexpr, VECTORS: tl.constexpr):
    """This program's first vector, its mask, and where in the input the pieces numbered 0 of its elements lie.

    Vector u is in row u // cols of as many vectors, and a row of the input has PIECES times as many.
    """
    NUMBER: tl.constexpr = tl.uint64 if WIDE else tl.uint32
    first = tl.program_id(0).to(tl.int64) * VECTORS
    vector = tl.arange(0, VECTORS)
    row = (first.to(NUMBER) + vector.to(NUMBER)) // cols.to(NUMBER)
    start = first + vector + row.to(tl.int64) * (cols.to(tl.int64) * (PIECES - 1))
    where = start[:, None] * VEC + tl.arange(0, VEC)[None, :]
    return first, vector, first + vector < count, where


@triton.jit
def _challenge(y, piece, pointers, p, mask):
    x = _wide(tl.load(pointers, mask=mask, other=0.0))
    beats = wins(x, y)
    return tl.where(beats, x, y), tl.where(beats, p, piece)


@triton.jit(do_not_specialize=["count", "cols"])
def forward_apart(
    x_ptr,
    y_ptr,
    winners_ptr,
    count,
    cols,
    PIECES: tl.constexpr,
    BITS: tl.constexpr,
    UNIT: tl.constexpr,
    WIDE: tl.constexpr,
    RECORD: tl.constexpr,
    VEC: tl.constexpr,
    VECTORS: tl.constexpr,
):
    first, vector, inside, where = _apart(count, cols, WIDE, PIECES, VEC, VECTORS)
    mask = inside[:, None]
    step = cols.to(tl.int64) * VEC
    y = _wide(tl.load(x_ptr + where, mask=mask, other=0.0))
    piece = tl.zeros([VECTORS, VEC], tl.int32)
    if PIECES <= UNROLLED:
        for p in tl.static_range(1, PIECES):
            y, piece = _challenge(y, piece, x_ptr + where + p * step, p, mask)
    else:
        for p in range(1, PIECES):
            y, piece = _challenge(y, piece, x_ptr + where + p * step, p, mask)
    out = first * VEC + vector[:, None] * VEC + tl.arange(0, VEC)[None, :]
    tl.store(y_ptr + out, y.to(y_ptr.dtype.element_ty), mask=mask)
    if RECORD:
        PER: tl.constexpr = UNIT // BITS
        unit = tl.arange(0, VECTORS * VEC // PER)
        packed = pack(piece, BITS, UNIT, VECTORS * VEC).to(winners_ptr.dtype.element_ty)
        tl.store(winners_ptr + first * VEC // PER + unit, packed, mask=unit * PER < (count - first) * VEC)


@triton.jit(do_not_specialize=["count", "cols"])
def backward_apart(
    grad_ptr,
    grad_x_ptr,
    winners_ptr,
    count,
    cols,
    PIECES: tl.constexpr,
    BITS: tl.constexpr,
    UNIT: tl.constexpr,
    WIDE: tl.constexpr,
    VEC: tl.constexpr,
    VECTORS: tl.constexpr,
):
    PER: tl.constexpr = UNIT // BITS
    first, vector, inside, where = _apart(count, cols, WIDE, PIECES, VEC, VECTORS)
    mask = inside[:, None]
    step = cols.to(tl.int64) * VEC
    out = vector[:, None] * VEC + tl.arange(0, VEC)[None, :]
    grad = tl.load(grad_ptr + first * VEC + out, mask=mask, other=0.0)
    packed = tl.load(winners_ptr + first * VEC // PER + vector * VEC // PER, mask=inside, other=0)
    if UNIT < 32:
        packed = packed.to(tl.int32)
    shifts = (out % PER * BITS).to(packed.dtype)
    piece = (packed[:, None] >> shifts) & ((1 << BITS) - 1)
    if PIECES <= UNROLLED:
        for p in tl.static_range(PIECES):
            g = tl.where(piece == p, grad, 0.0)
            tl.store(grad_x_ptr + where + p * step, g, mask=mask, eviction_policy="evict_first")
    else:
        for p in range(PIECES):
            g = tl.where(piece == p, grad, 0.0)
            tl.store(grad_x_ptr + where + p * step, g, mask=mask, eviction_policy="evict_first")
