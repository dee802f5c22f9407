"""Sparsemax in Triton; what each function computes is told in `contracts/sparsemax.py`.

A program has some rows, or one that it holds a part of at a time and reads again in each pass. Newton's steps are taken
in single precision first, from where it ends in double: two more of those are the rule.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..contracts import sparsemax as contract
from ..recording import launch
from . import hardware
from .math import compute_type
from .widths import power_of_two

_TILE = 2048  # elements of several rows in a program
_HELD, _THREAD_ELEMENTS = 8192, 16  # of a row that registers hold, and of each thread; half as many of float64
_SIDE = 16  # rows that lie side by side, so that what is read together fills a sector

_LOWEST, _GRID = tl.constexpr(contract.LOWEST), tl.constexpr(contract.GRID)
_LEAST_HALF = tl.constexpr(contract.LEAST_HALF)
_MARGIN = tl.constexpr(2.0**-10)  # more than the rounding of sums in single precision can move a threshold
_INF = tl.constexpr(float("inf"))


class Tile(NamedTuple):
    """`once` says that a row fits."""

    lines: int
    size: int
    once: bool
    num_warps: int


def sparsemax(x: Tensor, y: Tensor, size: int, inner: int) -> None:
    _launch(sparsemax_kernel, (x, y), size, inner)


def sparsemax_backward(grad: Tensor, y: Tensor, grad_x: Tensor, size: int, inner: int) -> None:
    _launch(sparsemax_backward_kernel, (grad, y, grad_x), size, inner)


def tile(lines: int, size: int, inner: int, bytes_of_element: int) -> Tile:
    """The rows and their elements that a program has at once."""
    halves = max(1, bytes_of_element // 4)
    held, width = _HELD // halves, power_of_two(size)
    side = min(_SIDE, power_of_two(inner))
    once = width * side <= held
    rows = max(side, min(power_of_two(lines if inner == 1 else inner), _TILE // width)) if once else side
    width = width if once else held // 2 // side  # with room for pointers
    return Tile(rows, width, once, max(1, rows * width * halves // (32 * _THREAD_ELEMENTS)))


def _launch(kernel: triton.JITFunction, tensors: tuple[Tensor, ...], size: int, inner: int) -> None:
    x = tensors[0]
    outer = x.numel() // (size * inner)
    plan = tile(outer, size, inner, x.element_size())
    programs = -(-outer // plan.lines) if inner == 1 else outer * -(-inner // plan.lines)
    with hardware.guard(x.device):
        launch(kernel, (programs,))(
            *tensors, outer, size, inner, inner > 1, plan.once, plan.lines, plan.size, num_warps=plan.num_warps
        )


@triton.jit
def _place(outer, size, inner, ACROSS: tl.constexpr, LINES: tl.constexpr):
    """Where this program's rows begin, and which there are."""
    lane = tl.arange(0, LINES)[:, None]
    if ACROSS:
        blocks = tl.cdiv(inner, LINES)
        col = tl.program_id(0) % blocks * LINES + lane
        return (tl.program_id(0) // blocks).to(tl.int64) * size * inner + col, col < inner
    else:
        row = tl.program_id(0).to(tl.int64) * LINES + lane
        return row * size, row < outer


@triton.jit
def _at(first, size, inner, SIZE: tl.constexpr):
    """Offsets of a part of each row, and which of its elements there are."""
    place = first + tl.arange(0, SIZE)[None, :]
    return place.to(tl.int64) * inner, place < size


@triton.jit
def _logits(x_ptr, start, there, first, size, inner, SIZE: tl.constexpr):
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype)
    at, inside = _at(first, size, inner, SIZE)
    return tl.load(x_ptr + start + at, mask=there & inside, other=-_INF).to(COMPUTE)


@triton.jit
def _shifted(held, shift, x_ptr, start, there, first, size, inner, ONCE: tl.constexpr, SIZE: tl.constexpr):
    """A part of each row, less the shift: the one that is held, or one that is read."""
    x = held if ONCE else _logits(x_ptr, start, there, first, size, inner, SIZE)
    w = x - shift
    return tl.where(w < _LOWEST, _LOWEST, w)


@triton.jit
def _split(w):
    """Multiples of 2^-22, of which sums are exact, and the rest."""
    coarse = (w + _GRID) - _GRID
    return coarse, w - coarse


@triton.jit
def _above(w, threshold, rest):
    """What exceeds the threshold, by how much in two parts."""
    coarse, fine = _split(w.to(tl.float64))
    return coarse, fine, (coarse - threshold) + (fine - rest)


@triton.jit
def sparsemax_kernel(
    x_ptr, y_ptr, outer, size, inner, ACROSS: tl.constexpr, ONCE: tl.constexpr, LINES: tl.constexpr, SIZE: tl.constexpr
):  # fmt: skip
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype)
    OUT: tl.constexpr = y_ptr.dtype.element_ty
    end = SIZE if ONCE else size
    start, there = _place(outer, size, inner, ACROSS, LINES)
    held = _logits(x_ptr, start, there, 0, size, inner, SIZE)

    top = tl.full([LINES, 1], -_INF, COMPUTE)
    wrong = tl.zeros([LINES, 1], tl.int32)
    for first in range(0, end, SIZE):
        x = held if ONCE else _logits(x_ptr, start, there, first, size, inner, SIZE)
        top = tl.maximum(top, tl.max(x, 1, keep_dims=True))
        wrong += tl.sum((x != x).to(tl.int32), 1, keep_dims=True)
    shift = tl.where(tl.abs(top) < 2, 0.0, top)
    shift = tl.where((wrong > 0) | (tl.abs(top) == _INF), float("nan"), shift)
    lowest = top - shift - 1

    count = tl.full([LINES, 1], size + 1, tl.int32)
    moves = 0
    if COMPUTE != tl.float64:
        moves = 1
        while moves > 0:
            total = tl.zeros([LINES, 1], tl.float64)
            now = tl.zeros([LINES, 1], tl.int32)
            for first in range(0, end, SIZE):
                w = _shifted(held, shift, x_ptr, start, there, first, size, inner, ONCE, SIZE)
                above = w > lowest
                total += tl.sum(tl.where(above, w, 0.0), 1, keep_dims=True).to(tl.float64)
                now += tl.sum(above.to(tl.int32), 1, keep_dims=True)
            fewer = now < count
            lowest = tl.where(fewer, ((total - 1) / now).to(COMPUTE), lowest)
            count = tl.minimum(count, now)
            moves = tl.max(tl.max(fewer.to(tl.int32), 1), 0)

    threshold, rest = _split(lowest.to(tl.float64) - _MARGIN)
    count += size + 1
    moves += 1
    while moves > 0:
        high = tl.zeros([LINES, 1], tl.float64)
        low = tl.zeros([LINES, 1], tl.float64)
        now = tl.zeros([LINES, 1], tl.int32)
        for first in range(0, end, SIZE):
            w = _shifted(held, shift, x_ptr, start, there, first, size, inner, ONCE, SIZE)
            coarse, fine, excess = _above(w, threshold, rest)
            high += tl.sum(tl.where(excess > 0, coarse, 0.0), 1, keep_dims=True)
            low += tl.sum(tl.where(excess > 0, fine, 0.0), 1, keep_dims=True)
            now += tl.sum((excess > 0).to(tl.int32), 1, keep_dims=True)
        fewer = now < count
        found, _ = _split((high - 1 + low) / now)
        rest = tl.where(fewer, ((high - 1 - found * now) + low) / now, rest)
        threshold = tl.where(fewer, found, threshold)
        count = tl.minimum(count, now)
        moves = tl.max(tl.max(fewer.to(tl.int32), 1), 0)

    for first in range(0, end, SIZE):
        w = _shifted(held, shift, x_ptr, start, there, first, size, inner, ONCE, SIZE)
        _, _, excess = _above(w, threshold, rest)
        if OUT == tl.float16:
            excess = tl.where((excess > 0) & (excess < _LEAST_HALF), _LEAST_HALF, excess)
        y = tl.where(count > moves, tl.where(excess <= 0, 0.0, excess), float("nan")).to(COMPUTE).to(OUT)
        at, inside = _at(first, size, inner, SIZE)
        tl.store(y_ptr + start + at, y, mask=there & inside)


@triton.jit
def sparsemax_backward_kernel(
    grad_ptr, y_ptr, grad_x_ptr, outer, size, inner,
    ACROSS: tl.constexpr, ONCE: tl.constexpr, LINES: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    COMPUTE: tl.constexpr = compute_type(y_ptr.dtype)
    end = SIZE if ONCE else size
    start, there = _place(outer, size, inner, ACROSS, LINES)
    given, support = _on_support(grad_ptr, y_ptr, start, there, 0, size, inner, SIZE)
    total = tl.zeros([LINES, 1], tl.float64)
    count = tl.zeros([LINES, 1], tl.int32)
    for first in range(0, end, SIZE):
        if not ONCE:
            given, support = _on_support(grad_ptr, y_ptr, start, there, first, size, inner, SIZE)
        total += tl.sum(given.to(tl.float64), 1, keep_dims=True)
        count += tl.sum(support.to(tl.int32), 1, keep_dims=True)
    mean = total / count
    for first in range(0, end, SIZE):
        if not ONCE:
            given, support = _on_support(grad_ptr, y_ptr, start, there, first, size, inner, SIZE)
        out = tl.where(support, given.to(tl.float64) - mean, 0.0).to(COMPUTE)
        at, inside = _at(first, size, inner, SIZE)
        tl.store(grad_x_ptr + start + at, out.to(grad_x_ptr.dtype.element_ty), mask=there & inside)


@triton.jit
def _on_support(grad_ptr, y_ptr, start, there, first, size, inner, SIZE: tl.constexpr):
    """The gradient on the support, NaN where the output is, 0 off it."""
    COMPUTE: tl.constexpr = compute_type(y_ptr.dtype)
    at, inside = _at(first, size, inner, SIZE)
    y = tl.load(y_ptr + start + at, mask=there & inside, other=0.0).to(COMPUTE)
    grad = tl.load(grad_ptr + start + at, mask=there & inside, other=0.0).to(COMPUTE)
    return tl.where(y != 0, grad + 0 * y, 0.0), y != 0
