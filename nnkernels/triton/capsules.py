"""Capsules in Triton; what each function computes is told in `contracts/capsules.py`.

A program of squash holds whole vectors. One of routing takes a sample through all rounds: it reads the votes once in
each, from the cache but in the first, a block of capsules below at a time. Backward has a program for each block.
Vectors that are too large for that are left to torch's operations.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..contracts.capsules import ON_CHIP, fits_on_chip
from ..recording import launch
from ..reference import capsules as reference
from . import hardware
from .math import compute_type, divide, exp_parts, is_fast

NUM_WARPS = 4
_ROUTED = 1024  # votes at once, whose sums stay in registers beside them


def squash(x: Tensor, y: Tensor, size: int, inner: int) -> None:
    if not fits_on_chip(x, size):
        return reference.squash(x, y, size, inner)
    _launch_squash((x, None, y), size, inner)


def squash_backward(grad: Tensor, x: Tensor, grad_x: Tensor, size: int, inner: int) -> None:
    if not fits_on_chip(x, size):
        return reference.squash_backward(grad, x, grad_x, size, inner)
    _launch_squash((x, grad, grad_x), size, inner)


def _launch_squash(tensors: tuple[Tensor, Tensor | None, Tensor], size: int, inner: int) -> None:
    x = tensors[0]
    lines, width = x.numel() // size, triton.next_power_of_2(size)
    block = max(1, ON_CHIP // width)
    with hardware.guard(x.device):
        launch(squash_kernel, (-(-lines // block),))(
            *tensors, lines, size, inner, tensors[1] is not None, block, width, num_warps=NUM_WARPS
        )


def route(votes: Tensor, capsules: Tensor, shares: Tensor | None, sums: Tensor | None, rounds: int) -> None:
    batch, below, above, size = votes.shape
    if not fits_on_chip(votes, above, size):
        return reference.route(votes, capsules, shares, sums, rounds)
    with hardware.guard(votes.device):
        launch(route_kernel, (batch,))(
            votes, capsules, shares, sums, rounds, below, above, size, *votes.stride(), *capsules.stride(),
            shares is not None, *tile(above, size), num_warps=NUM_WARPS,
        )  # fmt: skip


def route_backward(grad: Tensor, shares: Tensor, sums: Tensor, grad_votes: Tensor) -> None:
    batch, below, above, size = grad_votes.shape
    if not fits_on_chip(grad_votes, above, size):
        return reference.route_backward(grad, shares, sums, grad_votes)
    block, *padded = tile(above, size)
    with hardware.guard(grad.device):
        launch(route_backward_kernel, (batch, -(-below // block)))(
            grad, shares, sums, grad_votes, below, above, size, *grad.stride(), *grad_votes.stride(),
            block, *padded, num_warps=NUM_WARPS,
        )  # fmt: skip


def tile(above: int, size: int) -> tuple[int, int, int]:
    """Capsules below and above, and numbers of a vector, of a program's tile."""
    above, size = (triton.next_power_of_2(length) for length in (above, size))
    return max(1, _ROUTED // (above * size)), above, size


@triton.jit
def _squash(square, FAST: tl.constexpr):
    """y = value x, and grad x = value grad + slope (x . grad) x, told the square of a vector's length."""
    TINY: tl.constexpr = 2.2250738585072014e-308 if square.dtype == tl.float64 else 1.1754943508222875e-38
    length = tl.sqrt(tl.where(square < TINY, TINY, square))
    below = divide(tl.full(square.shape, 1.0, square.dtype), 1.0 + square, FAST)
    return length * below, divide((1.0 - square) * below * below, length, FAST)


@triton.jit(do_not_specialize=["lines"])
def squash_kernel(
    x_ptr, grad_ptr, out_ptr, lines, size, inner, BACKWARD: tl.constexpr, LINES: tl.constexpr, SIZE: tl.constexpr
):
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype)
    FAST: tl.constexpr = is_fast(x_ptr.dtype)
    line = tl.program_id(0).to(tl.int64) * LINES + tl.arange(0, LINES)[:, None]
    place = tl.arange(0, SIZE)[None, :]
    at = line // inner * inner * size + line % inner + place * inner
    inside = (line < lines) & (place < size)
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(COMPUTE)
    value, slope = _squash(tl.sum(x * x, 1)[:, None], FAST)
    if BACKWARD:
        grad = tl.load(grad_ptr + at, mask=inside, other=0.0).to(COMPUTE)
        out = value * grad + slope * tl.sum(x * grad, 1)[:, None] * x
    else:
        out = value * x
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _shares(votes, heard, above, FAST: tl.constexpr, ABOVE: tl.constexpr):
    """The softmax of each capsule's agreement with those above."""
    there = tl.arange(0, ABOVE)[None, :] < above
    agreement = tl.where(there, tl.sum(votes * heard[None, :, :], 2), -float("inf"))
    p, _, s, t = exp_parts(agreement - tl.max(agreement, 1)[:, None], None, FAST)
    e = tl.where(there, p * s * t, 0.0)
    return divide(e, tl.sum(e, 1)[:, None], FAST)


@triton.jit
def _vectors(row_step, col_step, above, size, ABOVE: tl.constexpr, SIZE: tl.constexpr):
    """Offsets and mask of the vectors above."""
    row, col = tl.arange(0, ABOVE)[:, None], tl.arange(0, SIZE)[None, :]
    return row * row_step + col * col_step, (row < above) & (col < size)


@triton.jit
def _shares_at(batch, row, below, above, ABOVE: tl.constexpr):
    """Offsets and mask of the shares of capsules below."""
    col = tl.arange(0, ABOVE)[None, :]
    row = row[:, None]
    return (batch * below + row) * above + col, (row < below) & (col < above)


@triton.jit(do_not_specialize=["rounds", "below", "above", "size"])
def route_kernel(
    votes_ptr, out_ptr, shares_ptr, sums_ptr, rounds, below, above, size,
    votes_batch, votes_below, votes_above, votes_col, out_batch, out_above, out_col,
    KEEPS: tl.constexpr, BLOCK: tl.constexpr, ABOVE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    COMPUTE: tl.constexpr = compute_type(votes_ptr.dtype)
    FAST: tl.constexpr = is_fast(votes_ptr.dtype)
    batch = tl.program_id(0).to(tl.int64)
    vectors, there = _vectors(votes_above, votes_col, above, size, ABOVE, SIZE)
    heard = tl.zeros([ABOVE, SIZE], COMPUTE)
    total = heard
    capsules = heard
    for number in range(rounds):
        sums = tl.zeros([BLOCK, ABOVE, SIZE], COMPUTE)
        for first in range(0, below, BLOCK):
            row = first + tl.arange(0, BLOCK)
            at = batch * votes_batch + row.to(tl.int64)[:, None, None] * votes_below + vectors[None, :, :]
            inside = (row < below)[:, None, None] & there[None, :, :]
            votes = tl.load(votes_ptr + at, mask=inside, other=0.0).to(COMPUTE)
            shares = _shares(votes, heard, above, FAST, ABOVE)
            sums += shares[:, :, None] * votes
            if KEEPS:
                shares_at, written = _shares_at(batch, row, below, above, ABOVE)
                tl.store(shares_ptr + shares_at, shares, mask=written & (number == rounds - 1))
        total = tl.sum(sums, 0)
        value, _ = _squash(tl.sum(total * total, 1)[:, None], FAST)
        capsules = value * total
        heard += capsules
    out_at, _ = _vectors(out_above, out_col, above, size, ABOVE, SIZE)
    tl.store(out_ptr + batch * out_batch + out_at, capsules.to(out_ptr.dtype.element_ty), mask=there)
    if KEEPS:
        sums_at, _ = _vectors(size, 1, above, size, ABOVE, SIZE)
        tl.store(sums_ptr + batch * above * size + sums_at, total, mask=there)


@triton.jit(do_not_specialize=["below", "above", "size"])
def route_backward_kernel(
    grad_ptr, shares_ptr, sums_ptr, grad_votes_ptr, below, above, size, grad_batch, grad_above, grad_col,
    grad_votes_batch, grad_votes_below, grad_votes_above, grad_votes_col,
    BLOCK: tl.constexpr, ABOVE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    COMPUTE: tl.constexpr = compute_type(grad_ptr.dtype)
    batch = tl.program_id(0).to(tl.int64)
    sums_at, there = _vectors(size, 1, above, size, ABOVE, SIZE)
    total = tl.load(sums_ptr + batch * above * size + sums_at, mask=there, other=0.0)
    grad_at, _ = _vectors(grad_above, grad_col, above, size, ABOVE, SIZE)
    grad = tl.load(grad_ptr + batch * grad_batch + grad_at, mask=there, other=0.0).to(COMPUTE)
    value, slope = _squash(tl.sum(total * total, 1)[:, None], is_fast(grad_ptr.dtype))
    grad = value * grad + slope * tl.sum(total * grad, 1)[:, None] * total

    row = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    shares_at, known = _shares_at(batch, row, below, above, ABOVE)
    shares = tl.load(shares_ptr + shares_at, mask=known, other=0.0)
    for_votes = (shares[:, :, None] * grad[None, :, :]).to(grad_votes_ptr.dtype.element_ty)
    vectors, _ = _vectors(grad_votes_above, grad_votes_col, above, size, ABOVE, SIZE)
    at = batch * grad_votes_batch + row.to(tl.int64)[:, None, None] * grad_votes_below + vectors[None, :, :]
    tl.store(grad_votes_ptr + at, for_votes, mask=(row < below)[:, None, None] & there[None, :, :])
