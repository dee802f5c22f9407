"""Capsules in Triton; what each function computes is told in `contracts/capsules.py`.

A program of squash holds whole vectors. One of routing takes a share of a sample's capsules below through all rounds:
it reads their votes once in each, a block of capsules at a time, and waits for the sums of the sample's other programs.
Vectors that are too large for that are left to torch's operations.
"""

from __future__ import annotations

from math import gcd

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..contracts.capsules import ON_CHIP, fits_on_chip
from ..contracts.computing import wide_dtype
from ..recording import launch
from ..reference import capsules as reference
from . import hardware
from .math import compute_type, divide, exp_parts, is_fast
from .reducing_tiles import aligned
from .waiting import is_last, publish, wait
from .widths import power_of_two

NUM_WARPS = 4
_ROUTED = 1024  # votes at once, whose sums stay in registers beside them
STAGES = 3  # blocks of votes under way at once
_PROGRAMS = 1024  # that keep the memory busy
_MOST_SHARES = 16  # of a sample
TOGETHER = 4  # sums that a program loads at once: with more its registers leave room for fewer programs


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
    lines, width = x.numel() // size, power_of_two(size)
    block = max(1, ON_CHIP // width)
    with hardware.guard(x.device):
        launch(squash_kernel, (-(-lines // block),))(
            *tensors, lines, size, inner, tensors[1] is not None, gcd(size, 16), block, width, num_warps=NUM_WARPS
        )


def route(votes: Tensor, capsules: Tensor, shares: Tensor | None, sums: Tensor | None, rounds: int) -> None:
    batch, below, above, size = votes.shape
    if not fits_on_chip(votes, above, size):
        return reference.route(votes, capsules, shares, sums, rounds)
    block, *padded = tile(above, size)
    most = 1 if hardware.interpreted() else min(hardware.multiprocessors(votes.device) // 2, _MOST_SHARES)
    splits, share = _splits(batch, below, block, most)
    partial = counts = None
    if splits > 1:
        partial = torch.empty(2, batch, splits, *padded, dtype=wide_dtype(votes.dtype), device=votes.device)
        counts = torch.zeros(1 + batch, dtype=torch.int32, device=votes.device)
    with hardware.guard(votes.device):
        launch(route_kernel, (batch * splits,))(
            votes, capsules, shares, sums, partial, counts, rounds, batch, splits, share, below, above, size,
            *votes.stride(), *capsules.stride(), _alignment(votes), shares is not None, TOGETHER, STAGES,
            block, *padded, num_warps=NUM_WARPS,
        )  # fmt: skip


def route_backward(grad: Tensor, shares: Tensor, sums: Tensor, grad_votes: Tensor) -> None:
    batch, below, above, size = grad_votes.shape
    if not fits_on_chip(grad_votes, above, size):
        return reference.route_backward(grad, shares, sums, grad_votes)
    block, *padded = tile(above, size)
    splits, share = _splits(batch, below, block, below)
    with hardware.guard(grad.device):
        launch(route_backward_kernel, (batch, splits))(
            grad, shares, sums, grad_votes, share, below, above, size, *grad.stride(), *grad_votes.stride(),
            _alignment(grad_votes), block, *padded, num_warps=NUM_WARPS,
        )  # fmt: skip


def _splits(batch: int, below: int, block: int, most: int) -> tuple[int, int]:
    """How many programs, at most, share a sample's capsules below, and how many capsules each of them takes."""
    blocks = -(-below // block)
    each = -(-blocks // max(1, min(most, _PROGRAMS // batch)))
    return -(-blocks // each), each * block


def _alignment(votes: Tensor) -> int:
    """The power of two, 16 at most, that divides where vectors begin and their size, if their numbers are adjacent."""
    *steps, step = votes.stride()
    return gcd(16, votes.shape[3], *steps) if step == 1 else 1


def tile(above: int, size: int) -> tuple[int, int, int]:
    """Capsules below and above, and numbers of a vector, of a program's tile."""
    above, size = (power_of_two(length) for length in (above, size))
    return max(1, _ROUTED // (above * size)), above, size


@triton.jit
def _squash(square, FAST: tl.constexpr):
    """y = value x, and grad x = value grad + slope (x . grad) x, told the square of a vector's length."""
    TINY: tl.constexpr = 2.2250738585072014e-308 if square.dtype == tl.float64 else 1.1754943508222875e-38
    length = tl.sqrt(tl.where(square < TINY, TINY, square))
    below = divide(tl.full(square.shape, 1.0, square.dtype), 1.0 + square, FAST)
    return length * below, divide((1.0 - square) * below * below, length, FAST)


@triton.jit(do_not_specialize=["lines", "size"])
def squash_kernel(
    x_ptr, grad_ptr, out_ptr, lines, size, inner,
    BACKWARD: tl.constexpr, ALIGN: tl.constexpr, LINES: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype)
    FAST: tl.constexpr = is_fast(x_ptr.dtype)
    line = tl.program_id(0).to(tl.int64) * LINES + tl.arange(0, LINES)[:, None]
    place = tl.arange(0, SIZE)[None, :]
    size = aligned(size, ALIGN)
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
def _shares_at(row, end, above, ABOVE: tl.constexpr):
    """Offsets and mask of the shares of a sample's capsules below."""
    col = tl.arange(0, ABOVE)[None, :]
    row = row[:, None]
    return row.to(tl.int64) * above + col, (row < end) & (col < above)


@triton.jit
def _votes(
    votes_ptr, first, end, votes_below, vectors, there, BLOCK: tl.constexpr, ABOVE: tl.constexpr, SIZE: tl.constexpr
):  # fmt: skip
    """A block of capsules below, where their votes lie, and which exist."""
    row = first + tl.arange(0, BLOCK)
    at = row.to(tl.int64)[:, None, None] * votes_below + vectors[None, :, :]
    return row, votes_ptr + at, (row < end)[:, None, None] & there[None, :, :]


@triton.jit
def _own_sum(
    votes_ptr, shares_ptr, heard, is_first, begin, end, votes_below, vectors, there, above, KEEPS: tl.constexpr,
    STAGES: tl.constexpr, BLOCK: tl.constexpr, ABOVE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """The sum of a program's votes, each times its share; KEEPS those shares."""
    COMPUTE: tl.constexpr = heard.dtype
    FAST: tl.constexpr = is_fast(votes_ptr.dtype)
    alike = divide(tl.full([BLOCK, ABOVE], 1.0, COMPUTE), above.to(COMPUTE), FAST)
    sums = tl.zeros([BLOCK, ABOVE, SIZE], COMPUTE)
    for first in tl.range(begin, end, BLOCK, num_stages=STAGES):
        row, at, inside = _votes(votes_ptr, first, end, votes_below, vectors, there, BLOCK, ABOVE, SIZE)
        votes = tl.load(at, mask=inside, other=0.0).to(COMPUTE)
        shares = alike
        if not is_first:
            shares = _shares(votes, heard, above, FAST, ABOVE)
        sums += shares[:, :, None] * votes
        if KEEPS:
            shares_at, written = _shares_at(row, end, above, ABOVE)
            tl.store(shares_ptr + shares_at, shares, mask=written)
    return tl.sum(sums, 0)


@triton.jit
def _place(ABOVE: tl.constexpr, SIZE: tl.constexpr):
    """Where a program leaves its sum for the others."""
    return tl.arange(0, ABOVE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]


@triton.jit
def _sum_of_all(partial_ptr, splits, TOGETHER: tl.constexpr, ABOVE: tl.constexpr, SIZE: tl.constexpr):
    """What all of a sample's programs have left; few at a time, for their registers' sake."""
    total = tl.zeros([ABOVE, SIZE], partial_ptr.dtype.element_ty)
    for first in range(0, splits, TOGETHER):
        part = first + tl.arange(0, TOGETHER)[:, None, None]
        # Past the L1 cache, which may hold these lines as they were before other programs wrote them.
        at = part * (ABOVE * SIZE) + _place(ABOVE, SIZE)[None, :, :]
        total += tl.sum(tl.load(partial_ptr + at, mask=part < splits, other=0.0, cache_modifier=".cg"), 0)
    return total


@triton.jit
def _finish(
    total, out_ptr, sums_ptr, batch, above, size, out_batch, out_above, out_col, KEEPS: tl.constexpr,
    ABOVE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    value, _ = _squash(tl.sum(total * total, 1)[:, None], is_fast(out_ptr.dtype))
    at, there = _vectors(out_above, out_col, above, size, ABOVE, SIZE)
    tl.store(out_ptr + batch * out_batch + at, (value * total).to(out_ptr.dtype.element_ty), mask=there)
    if KEEPS:
        sums_at, _ = _vectors(size, 1, above, size, ABOVE, SIZE)
        tl.store(sums_ptr + batch * above * size + sums_at, total, mask=there)


@triton.jit(do_not_specialize=["rounds", "batches", "splits", "share", "below", "above", "size"])
def route_kernel(
    votes_ptr, out_ptr, shares_ptr, sums_ptr, partial_ptr, counts_ptr, rounds, batches, splits, share, below, above,
    size, votes_batch, votes_below, votes_above, votes_col, out_batch, out_above, out_col,
    ALIGN: tl.constexpr, KEEPS: tl.constexpr, TOGETHER: tl.constexpr, STAGES: tl.constexpr,
    BLOCK: tl.constexpr, ABOVE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """With `counts_ptr` a sample's capsules below have `splits` shares, each a program's.

    After each round but the last they wait for each other; after that, the last one to come finishes alone. A program
    leaves its sums of even and odd rounds in two places: none writes a third time before all have read the first.
    """
    COMPUTE: tl.constexpr = compute_type(votes_ptr.dtype)
    number = tl.program_id(0)
    if counts_ptr is not None:
        number = tl.atomic_add(counts_ptr, 1, sem="relaxed")
    batch, part = (number // splits).to(tl.int64), number % splits
    begin = part * share
    end = tl.minimum(begin + share, below)
    vectors, there = _vectors(aligned(votes_above, ALIGN), votes_col, above, aligned(size, ALIGN), ABOVE, SIZE)
    votes_ptr += batch * aligned(votes_batch, ALIGN)
    votes_below = aligned(votes_below, ALIGN)
    place = _place(ABOVE, SIZE)
    heard = tl.zeros([ABOVE, SIZE], COMPUTE)
    for turn in range(rounds - 1):
        total = _own_sum(
            votes_ptr, shares_ptr, heard, turn == 0, begin, end, votes_below, vectors, there, above, False, STAGES,
            BLOCK, ABOVE, SIZE,
        )  # fmt: skip
        if counts_ptr is not None:
            partial = partial_ptr + ((turn % 2) * batches + batch) * splits * (ABOVE * SIZE)
            tl.store(partial + part * (ABOVE * SIZE) + place, total)
            publish(counts_ptr + 1 + batch)
            wait(counts_ptr + 1 + batch, splits * (turn + 1))
            total = _sum_of_all(partial, splits, TOGETHER, ABOVE, SIZE)
        value, _ = _squash(tl.sum(total * total, 1)[:, None], is_fast(votes_ptr.dtype))
        heard += value * total
    if KEEPS:
        shares_ptr += batch * below * above
    total = _own_sum(
        votes_ptr, shares_ptr, heard, rounds == 1, begin, end, votes_below, vectors, there, above, KEEPS, STAGES,
        BLOCK, ABOVE, SIZE,
    )  # fmt: skip
    if counts_ptr is None:
        _finish(total, out_ptr, sums_ptr, batch, above, size, out_batch, out_above, out_col, KEEPS, ABOVE, SIZE)
    else:
        partial = partial_ptr + (((rounds - 1) % 2) * batches + batch) * splits * (ABOVE * SIZE)
        tl.store(partial + part * (ABOVE * SIZE) + place, total)
        if is_last(counts_ptr + 1 + batch, splits * rounds):
            total = _sum_of_all(partial, splits, TOGETHER, ABOVE, SIZE)
            _finish(total, out_ptr, sums_ptr, batch, above, size, out_batch, out_above, out_col, KEEPS, ABOVE, SIZE)


@triton.jit(do_not_specialize=["share", "below", "above", "size"])
def route_backward_kernel(
    grad_ptr, shares_ptr, sums_ptr, grad_votes_ptr, share, below, above, size, grad_batch, grad_above, grad_col,
    votes_batch, votes_below, votes_above, votes_col,
    ALIGN: tl.constexpr, BLOCK: tl.constexpr, ABOVE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    COMPUTE: tl.constexpr = compute_type(grad_ptr.dtype)
    batch = tl.program_id(0).to(tl.int64)
    sums_at, there = _vectors(size, 1, above, size, ABOVE, SIZE)
    total = tl.load(sums_ptr + batch * above * size + sums_at, mask=there, other=0.0)
    grad_at, _ = _vectors(grad_above, grad_col, above, size, ABOVE, SIZE)
    grad = tl.load(grad_ptr + batch * grad_batch + grad_at, mask=there, other=0.0).to(COMPUTE)
    value, slope = _squash(tl.sum(total * total, 1)[:, None], is_fast(grad_ptr.dtype))
    grad = value * grad + slope * tl.sum(total * grad, 1)[:, None] * total

    vectors, there = _vectors(aligned(votes_above, ALIGN), votes_col, above, aligned(size, ALIGN), ABOVE, SIZE)
    grad_votes_ptr += batch * aligned(votes_batch, ALIGN)
    shares_ptr += batch * below * above
    begin = tl.program_id(1) * share
    end = tl.minimum(begin + share, below)
    for first in range(begin, end, BLOCK):
        row, at, inside = _votes(
            grad_votes_ptr, first, end, aligned(votes_below, ALIGN), vectors, there, BLOCK, ABOVE, SIZE
        )
        shares_at, known = _shares_at(row, end, above, ABOVE)
        shares = tl.load(shares_ptr + shares_at, mask=known, other=0.0)
        tl.store(at, (shares[:, :, None] * grad[None, :, :]).to(grad_votes_ptr.dtype.element_ty), mask=inside)
