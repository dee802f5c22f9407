"""Normalisation + activation + residual on GPUs: tiles and launches of the kernels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..contracts.batch_normalization import Frame, Gather, Operands, Reduce, Running
from ..contracts.computing import wide_dtype
from ..contracts.inner import Inner
from ..recording import launch
from ..reference.batch_normalization import merge as merge_processes
from ..registry import elementwise
from . import batch_normalization_kernels as kernels
from . import group_normalization as alone
from . import hardware
from .activations import FORMULAS
from .widths import power_of_two, tile_width

_NUM_WARPS = 4
_TILE_BYTES = 4096  # of each operand
# How many tiles are under way at once, since computing takes almost as long as memory; more of them where channels do
# not lie side by side, or little is computed.
_STAGES, _MORE_STAGES = 3, 4
# Tiles of a program, for which it prepares its channels' numbers once; channels last; and there where it leaves sums.
_STEPS, _COLUMN_STEPS, _SUM_STEPS = 8, 16, 32
_MOST_COLS, _MOMENTS_COLS = 128, 64  # channels of a tile: more rows of it instead
# Sums of columns are exchanged between warps, which costs as much as several tiles: few long programs exchange less.
# How many there are may not depend on the device, or sums would.
_ENOUGH_PROGRAMS, _SUM_PROGRAMS = 1536, 512
_PROGRAMS, _COLUMN_PROGRAMS = 8192, 2048  # that leave sums, at most


class _Tiles(NamedTuple):
    """How programs share a tensor. `chunks` of them share a channel."""

    programs: int
    chunks: int
    row_steps: int
    col_steps: int
    cols: bool
    even: bool
    block_rows: int
    block_cols: int
    stages: int


def _tiles(frame: Frame, size: int, enough: int, sums: bool = False, most_cols: int = _MOST_COLS) -> _Tiles:
    """For elements of `size` bytes; so many programs are `enough`, and few are best where they leave `sums`."""
    elements = _TILE_BYTES // size
    is_cols = frame.inner == 1
    cols, lanes = (frame.channels, 1) if is_cols else (frame.inner, frame.channels)
    block_cols = tile_width(cols, min(elements, most_cols) if is_cols else elements)
    block_rows = min(power_of_two(frame.rows), elements // block_cols)
    across, down = -(-cols // block_cols), -(-frame.rows // block_rows)
    tiles = frame.batch * lanes * across * down
    longest = (_SUM_STEPS if sums else _COLUMN_STEPS) if is_cols else _STEPS
    most = _COLUMN_PROGRAMS if is_cols else _PROGRAMS
    steps = max(1, min(longest, tiles // enough), tiles // most if sums else 0)
    col_steps = 1 if is_cols else min(across, steps)
    row_steps = min(down, max(1, steps // col_steps))
    col_chunks, row_chunks = -(-across // col_steps), -(-down // row_steps)
    chunks = row_chunks * (1 if is_cols else col_chunks)
    programs = frame.batch * lanes * row_chunks * col_chunks
    stages = _STAGES if is_cols else _MORE_STAGES
    return _Tiles(programs, chunks, row_steps, col_steps, is_cols, cols % 16 == 0, block_rows, block_cols, stages)


def _moments(x: Tensor, frame: Frame, eps: float, running: Running | None, raw: bool) -> Tensor:
    lanes = frame.batch * frame.channels
    tiles = _tiles(frame, x.element_size(), _SUM_PROGRAMS, True, _MOMENTS_COLS)._replace(stages=_MORE_STAGES)
    partial = torch.empty(4, lanes, tiles.chunks, dtype=wide_dtype(x.dtype), device=x.device)
    statistics = torch.empty(4, frame.sets, dtype=partial.dtype, device=x.device)
    mean, var, momentum = running or (None, None, 0.0)
    length = frame.group * tiles.chunks
    launch(kernels.moments, (tiles.programs,))(
        x, partial, lanes, frame.rows, frame.channels, frame.inner, frame.channels * frame.inner, tiles.row_steps,
        tiles.col_steps, tiles.chunks, *tiles[4:], num_warps=_NUM_WARPS,
    )  # fmt: skip
    block = min(1024, power_of_two(length))
    launch(kernels.merge, (frame.sets,))(
        partial, statistics, mean, var, momentum, eps, frame.sets, length, raw, block, num_warps=_NUM_WARPS
    )
    return statistics


def fixed(running: Running, eps: float, x: Tensor) -> Tensor:
    sets = running.mean.numel()
    statistics = torch.empty(4, sets, dtype=wide_dtype(x.dtype), device=x.device)
    with hardware.guard(x.device):
        launch(kernels.fixed, (-(-sets // 256),))(
            running.mean, running.var, statistics, eps, sets, 256, num_warps=_NUM_WARPS
        )
    return statistics


def forward(
    inner: Inner, operands: Operands, frame: Frame, eps: float, running: Running | None, gather: Gather | None
) -> tuple[Tensor, Tensor]:
    x = operands.x
    if gather is None and (unit := alone.unit_of(frame, x)) is not None:
        return alone.forward(inner, operands, frame, eps, running, unit)
    if gather is not None:
        if x.numel() == 0:
            own = torch.zeros(4, frame.sets, dtype=wide_dtype(x.dtype), device=x.device)
        else:
            with hardware.guard(x.device):
                own = _moments(x, frame, eps, None, True)
        statistics = merge_processes(gather(own), eps, running)
    else:
        with hardware.guard(x.device):
            statistics = _moments(x, frame, eps, running, False)
    return apply(inner, operands, frame, statistics), statistics


def apply(inner: Inner, operands: Operands, frame: Frame, statistics: Tensor) -> Tensor:
    x = operands.x
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    tiles = _tiles(frame, x.element_size(), _ENOUGH_PROGRAMS)
    with hardware.guard(x.device):
        launch(kernels.apply, (tiles.programs,))(
            *operands, statistics, y, inner.a, inner.b, frame.sets, frame.rows, frame.channels, frame.inner,
            frame.group, frame.channels * frame.inner, tiles.row_steps, tiles.col_steps, FORMULAS[inner.name].value,
            *tiles[4:], num_warps=_NUM_WARPS,
        )  # fmt: skip
    return y


def backward(
    inner: Inner,
    grad: Tensor,
    operands: Operands,
    frame: Frame,
    statistics: Tensor,
    is_fixed: bool,
    wants_residual: bool,
    wants_parameters: bool,
    reduce: Reduce | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    x = operands.x
    if reduce is None and not is_fixed and (unit := alone.unit_of(frame, x)) is not None:
        return alone.backward(inner, grad, operands, frame, statistics, wants_residual, wants_parameters, unit)
    grad_x = torch.empty_like(x)
    grad_residual = torch.empty_like(x) if wants_residual else None
    lanes, wide = frame.batch * frame.channels, statistics.dtype
    found = torch.empty(2, lanes, dtype=wide, device=x.device)
    totals = torch.empty(2, frame.sets, dtype=wide, device=x.device)
    given = (grad, *operands, statistics)
    formula, masks = FORMULAS[inner.name].d1, elementwise(inner.name).masks
    shape = (frame.rows, frame.channels, frame.inner, frame.group, frame.channels * frame.inner)
    if x.numel() == 0:
        found.zero_()
        totals.zero_()
    else:
        sums = wants_parameters or not is_fixed
        tiles = _tiles(frame, x.element_size(), _SUM_PROGRAMS if sums else _ENOUGH_PROGRAMS, sums)
        partial = torch.empty(2, lanes, tiles.chunks, dtype=wide, device=x.device) if sums else None
        with hardware.guard(x.device):
            launch(kernels.sums, (tiles.programs,))(
                *given, partial, grad_x if is_fixed else None, grad_residual if is_fixed else None, inner.a, inner.b,
                frame.sets, lanes, *shape, tiles.row_steps, tiles.col_steps, tiles.chunks, formula, masks, *tiles[4:],
                num_warps=_NUM_WARPS,
            )  # fmt: skip
            if not sums:
                return grad_x, grad_residual, None
            block = min(1024, power_of_two(tiles.chunks))
            block_group = min(power_of_two(frame.group), 1024 // block)
            launch(kernels.add_up, (frame.sets,))(
                partial, statistics, operands.weight, found, totals, frame.sets, lanes, frame.channels, frame.group,
                tiles.chunks, block_group, block, num_warps=_NUM_WARPS,
            )  # fmt: skip
    if not is_fixed:
        if reduce is not None:
            reduce(totals)
        if x.numel() > 0:
            tiles = _tiles(frame, x.element_size(), _ENOUGH_PROGRAMS)
            with hardware.guard(x.device):
                launch(kernels.spread, (tiles.programs,))(
                    *given, totals, grad_x, grad_residual, inner.a, inner.b, frame.sets, *shape, tiles.row_steps,
                    tiles.col_steps, formula, masks, *tiles[4:], num_warps=_NUM_WARPS,
                )  # fmt: skip
    return grad_x, grad_residual, found.view(2, frame.batch, -1).sum(1) if frame.batch > 1 else found
