"""Radial basis functions in Triton; what each function computes is told in `contracts/radial.py`.

A program makes a tile of rows x centers and walks along the features, some at a time: their differences live in
registers, with the features of one pair in one thread. Backward writes what pulls at each pair, 2 gamma grad y, as a
matrix; each gradient of a vector is then a walk along the other side's vectors, in splits that are added up at the end.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..contracts.computing import wide_dtype
from ..contracts.radial import Gradients
from ..recording import launch
from . import hardware
from .math import compute_type, exp_parts, is_fast

NUM_WARPS = 4
ROWS, CENTERS, STEP = 16, 64, 8  # a tile, and the features of one step
VECTORS, FEATURES = 16, 16  # of the gradients of vectors
_MOST_SPLITS = 64


def gaussians(x: Tensor, centers: Tensor, gamma: Tensor | None, constant: float) -> Tensor:
    y = x.new_empty((len(x), len(centers)))
    if y.numel():
        with hardware.guard(x.device):
            launch(forward, (-(-len(x) // ROWS) * -(-len(centers) // CENTERS),))(
                x, _transposed(centers), gamma, y, *y.shape, x.shape[1], constant, *_kind_of(gamma),
                ROWS, CENTERS, STEP, num_warps=NUM_WARPS,
            )  # fmt: skip
    return y


def gaussians_backward(
    grad: Tensor,
    x: Tensor,
    centers: Tensor,
    gamma: Tensor | None,
    constant: float,
    wanted: tuple[bool, bool, bool],
) -> Gradients:
    if not grad.numel():
        given = (x, centers, gamma)
        return tuple(  # type: ignore[return-value]
            torch.zeros_like(one) if need and one is not None else None for need, one in zip(wanted, given, strict=True)
        )
    wide = wide_dtype(x.dtype)
    pulls = grad.new_empty(grad.shape, dtype=wide)
    parts = -(-len(x) // ROWS)
    for_gamma = grad.new_empty((parts, len(centers)), dtype=wide) if wanted[2] and gamma is not None else None
    with hardware.guard(x.device):
        launch(pull, (parts * -(-len(centers) // CENTERS),))(
            grad, x, _transposed(centers), gamma, pulls, for_gamma, *grad.shape, x.shape[1], constant,
            *_kind_of(gamma), for_gamma is not None, ROWS, CENTERS, STEP, num_warps=NUM_WARPS,
        )  # fmt: skip
    grad_gamma = None
    if for_gamma is not None and gamma is not None:
        grad_gamma = (for_gamma.sum().view(1) if len(gamma) == 1 else for_gamma.sum(0)).to(x.dtype)
    return (
        _pulled(pulls, x, centers) if wanted[0] else None,
        _pulled(pulls.T, centers, x) if wanted[1] else None,
        grad_gamma,
    )


def _transposed(centers: Tensor) -> Tensor:
    """Features first, so that neighbouring threads read neighbouring centers."""
    return centers.t().contiguous()


def _kind_of(gamma: Tensor | None) -> tuple[bool, bool]:
    """Whether gamma is learned, and whether each center has its own."""
    return gamma is not None, gamma is not None and len(gamma) != 1


def _pulled(pulls: Tensor, own: Tensor, others: Tensor) -> Tensor:
    """The sum over the others of pull (other - own), for each of one's own vectors."""
    vectors, features = own.shape
    programs = -(-vectors // VECTORS) * -(-features // FEATURES)
    needed = 4 * hardware.multiprocessors(own.device) // programs
    splits = max(1, min(_MOST_SPLITS, needed, len(others) // STEP))
    share = -(-len(others) // (splits * STEP)) * STEP
    made = pulls.new_empty((splits, vectors, features))
    if made.numel():
        with hardware.guard(own.device):
            launch(gather, (programs, splits))(
                pulls, own, others, made, vectors, len(others), features, share, *pulls.stride(),
                VECTORS, FEATURES, STEP, num_warps=NUM_WARPS,
            )  # fmt: skip
    return (made[0] if splits == 1 else made.sum(0)).to(own.dtype)


@triton.jit
def _tile(rows, centers, ROWS: tl.constexpr, CENTERS: tl.constexpr):
    """The rows and the centers of this program, and the number of its group of rows."""
    number = tl.program_id(0).to(tl.int64)
    across = (centers + CENTERS - 1) // CENTERS
    part = number // across
    return part * ROWS + tl.arange(0, ROWS), (number - part * across) * CENTERS + tl.arange(0, CENTERS), part


@triton.jit
def _response(
    x_ptr, centers_ptr, gamma_ptr, row, center, rows, centers, features, constant,
    LEARNED: tl.constexpr, EACH: tl.constexpr, STEP: tl.constexpr, ROWS: tl.constexpr, CENTERS: tl.constexpr,
):  # fmt: skip
    """|x - c|^2, gamma, which is NaN where it is negative, and exp(-gamma |x - c|^2)."""
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype)
    apart = tl.zeros([ROWS, CENTERS], COMPUTE)
    for first in range(0, features, STEP):
        k = first + tl.arange(0, STEP)
        inside = (k < features)[:, None]
        x = tl.load(x_ptr + row[None, :] * features + k[:, None], mask=inside & (row < rows)[None, :], other=0.0)
        at = centers_ptr + k[:, None].to(tl.int64) * centers + center[None, :]
        c = tl.load(at, mask=inside & (center < centers)[None, :], other=0.0)
        difference = x.to(COMPUTE)[:, :, None] - c.to(COMPUTE)[:, None, :]
        apart += tl.sum(difference * difference, axis=0)
    if EACH:
        gamma = tl.load(gamma_ptr + center, mask=center < centers, other=0.0).to(COMPUTE)
    elif LEARNED:
        gamma = tl.load(gamma_ptr + tl.zeros_like(center)).to(COMPUTE)
    else:
        gamma = tl.full([CENTERS], constant, COMPUTE)
    gamma = tl.where(gamma < 0, float("nan"), gamma)[None, :]
    p, _, s, t = exp_parts(-(gamma * apart), None, is_fast(x_ptr.dtype))
    return apart, gamma, p * s * t


@triton.jit
def forward(
    x_ptr, centers_ptr, gamma_ptr, y_ptr, rows, centers, features, constant: tl.float64,
    LEARNED: tl.constexpr, EACH: tl.constexpr, ROWS: tl.constexpr, CENTERS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    row, center, _ = _tile(rows, centers, ROWS, CENTERS)
    _, _, y = _response(
        x_ptr,
        centers_ptr,
        gamma_ptr,
        row,
        center,
        rows,
        centers,
        features,
        constant,
        LEARNED,
        EACH,
        STEP,
        ROWS,
        CENTERS,
    )
    inside = (row < rows)[:, None] & (center < centers)[None, :]
    tl.store(y_ptr + row[:, None] * centers + center[None, :], y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def pull(
    grad_ptr, x_ptr, centers_ptr, gamma_ptr, pulls_ptr, for_gamma_ptr, rows, centers, features, constant: tl.float64,
    LEARNED: tl.constexpr, EACH: tl.constexpr, FOR_GAMMA: tl.constexpr,
    ROWS: tl.constexpr, CENTERS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """2 gamma grad y, and the sums over the tile's rows of -grad y |x - c|^2."""
    row, center, part = _tile(rows, centers, ROWS, CENTERS)
    apart, gamma, y = _response(
        x_ptr,
        centers_ptr,
        gamma_ptr,
        row,
        center,
        rows,
        centers,
        features,
        constant,
        LEARNED,
        EACH,
        STEP,
        ROWS,
        CENTERS,
    )
    inside = (row < rows)[:, None] & (center < centers)[None, :]
    at = row[:, None] * centers + center[None, :]
    weighed = tl.load(grad_ptr + at, mask=inside, other=0.0).to(y.dtype) * y
    tl.store(pulls_ptr + at, 2 * gamma * weighed, mask=inside)
    if FOR_GAMMA:
        total = -tl.sum(tl.where(inside, weighed * apart, 0.0), axis=0)
        tl.store(for_gamma_ptr + part * centers + center, total, mask=center < centers)


@triton.jit
def gather(
    pulls_ptr, own_ptr, others_ptr, made_ptr, vectors, others, features, share, own_step, other_step,
    VECTORS: tl.constexpr, FEATURES: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One split of the sum of pull (other - own)."""
    COMPUTE: tl.constexpr = compute_type(own_ptr.dtype)
    number = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1).to(tl.int64)
    across = (features + FEATURES - 1) // FEATURES
    vector = number // across * VECTORS + tl.arange(0, VECTORS)
    k = (number % across) * FEATURES + tl.arange(0, FEATURES)
    inside = (vector < vectors)[:, None] & (k < features)[None, :]
    at = vector[:, None] * features + k[None, :]
    own = tl.load(own_ptr + at, mask=inside, other=0.0).to(COMPUTE)
    total = tl.zeros([VECTORS, FEATURES], COMPUTE)
    end = tl.minimum(split * share + share, others)
    for first in range(split * share, end, STEP):
        other = first + tl.arange(0, STEP)
        there = (other < end)[:, None]
        pulls = tl.load(
            pulls_ptr + vector[None, :] * own_step + other[:, None] * other_step,
            mask=there & (vector < vectors)[None, :], other=0.0,
        )  # fmt: skip
        given = tl.load(
            others_ptr + other[:, None] * features + k[None, :], mask=there & (k < features)[None, :], other=0.0
        ).to(COMPUTE)
        total += tl.sum(pulls[:, :, None] * (given[:, None, :] - own[None, :, :]), axis=0)
    tl.store(made_ptr + split * vectors * features + at, total, mask=inside)
