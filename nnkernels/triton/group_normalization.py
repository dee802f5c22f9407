"""Normalisation of sets that one program works on alone: which are, tiles and launches."""

from __future__ import annotations

from math import gcd
from typing import NamedTuple

import torch
from torch import Tensor

from ..contracts.batch_normalization import Frame, Operands, Running
from ..contracts.computing import wide_dtype
from ..contracts.inner import Inner
from ..recording import launch
from ..registry import elementwise
from . import group_normalization_kernels as kernels
from . import hardware
from .activations import FORMULAS
from .widths import power_of_two, tile_width

_MOST_IN_CACHE = 2**17  # bytes of a unit
_HELD_ELEMENTS = 16384  # of a unit that stays in registers
_TILE_BYTES = 4096  # where channels lie one behind the other
_COLUMNS_TILE_BYTES = 16384  # channels last, where there are fewer programs
_SEGMENT_BYTES = 64  # that lie side by side at least, channels last
_MOST_TILES = 8
_THREAD_ELEMENTS, _MOST_WARPS = 16, 8
_STAGES = 3
_MOST_ADDED = 4096  # sums that are loaded at once


class Unit(NamedTuple):
    """What a program works on and how: see `group_normalization_kernels`."""

    units: int
    """of a sample"""
    height: int
    width: int
    stride: int
    lines: int
    is_cols: bool
    is_one: bool
    is_held: bool
    is_whole: bool
    align: int
    tiles: int
    block_rows: int
    block_cols: int
    block_groups: int
    block_group: int

    @property
    def num_warps(self) -> int:
        elements = self.tiles * self.block_rows * self.block_cols
        return max(1, min(_MOST_WARPS, elements // _THREAD_ELEMENTS // 32))


def unit_of(frame: Frame, x: Tensor) -> Unit | None:
    """None if one program should not work on a set alone."""
    if (frame.batch == 1 and frame.group == 1) or frame.batch * frame.rows * frame.inner == 0:
        return None
    size = x.element_size()
    if frame.inner == 1:
        return _columns(frame, size)
    return _planes(frame, size) if frame.rows == 1 else None


def _planes(frame: Frame, size: int) -> Unit | None:
    """Units are groups, whose channels lie one behind the other."""
    height, width, elements = frame.group, frame.inner, _TILE_BYTES // size
    if height * width * size > _MOST_IN_CACHE:
        return None
    block_cols = tile_width(width, elements)
    tiles = -(-width // block_cols)
    if tiles > _MOST_TILES:
        return None
    held = power_of_two(height) * power_of_two(width) <= _HELD_ELEMENTS
    if held:
        block_rows, block_cols, tiles = power_of_two(height), power_of_two(width), 1
    else:
        block_rows = _rows(height, max(1, elements // (tiles * block_cols)))
    whole = height % block_rows == 0 and width % (tiles * block_cols) == 0
    return Unit(
        frame.channels // height, height, width, width, -(-height // block_rows), False, True, held, whole,
        gcd(width, 16), tiles, block_rows, block_cols, 1, 1,
    )  # fmt: skip


def _columns(frame: Frame, size: int) -> Unit | None:
    """Units are all rows of the channels of some groups: as many as lie side by side in a segment, or fill a tile."""
    height, channels, group = frame.rows, frame.channels, frame.group
    elements = _COLUMNS_TILE_BYTES // size
    least = max(_SEGMENT_BYTES // size, elements // height)
    width = min(channels, -(-least // group) * group)
    if height * width * size > _MOST_IN_CACHE or power_of_two(width) > elements:
        return None
    block_cols = power_of_two(width)
    held = power_of_two(height) * block_cols <= _HELD_ELEMENTS
    block_rows = power_of_two(height) if held else max(1, elements // block_cols)
    whole = height % block_rows == 0 and width == block_cols and channels % width == 0
    groups = width // group
    return Unit(
        -(-channels // width), height, width, channels, -(-height // block_rows), True, groups == 1, held, whole,
        gcd(width, channels, 16), 1, block_rows, block_cols, power_of_two(groups), power_of_two(group),
    )  # fmt: skip


def _rows(height: int, most: int) -> int:
    """The greatest power of two, at most `most`, that divides the height, or has few rows beyond it."""
    sizes = [1 << bit for bit in range(most.bit_length())]
    return max(size for size in sizes if -(-height // size) * size <= 1.1 * height)


def forward(
    inner: Inner, operands: Operands, frame: Frame, eps: float, running: Running | None, unit: Unit
) -> tuple[Tensor, Tensor]:
    x, wide = operands.x, wide_dtype(operands.x.dtype)
    y = torch.empty_like(x)
    statistics = torch.empty(4, frame.sets, dtype=wide, device=x.device)
    programs = frame.batch * unit.units
    columns = None if unit.is_one else torch.empty(3, programs, unit.block_cols, dtype=wide, device=x.device)
    mean, var, momentum = running or (None, None, 0.0)
    with hardware.guard(x.device):
        launch(kernels.forward, (programs,))(
            *operands, statistics, y, mean, var, columns, momentum, inner.a, inner.b, eps, frame.sets, frame.group,
            x.numel() // frame.batch, frame.channels, *unit[:5], FORMULAS[inner.name].value, *unit[5:], _STAGES,
            num_warps=unit.num_warps,
        )  # fmt: skip
    return y, statistics


def backward(
    inner: Inner, grad: Tensor, operands: Operands, frame: Frame, statistics: Tensor, wants_residual: bool,
    wants_parameters: bool, unit: Unit,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    x, wide = operands.x, statistics.dtype
    grad_x = torch.empty_like(x)
    grad_residual = torch.empty_like(x) if wants_residual else None
    sums = torch.empty(2, frame.batch, frame.channels, dtype=wide, device=x.device)
    totals = None if unit.is_one else torch.empty(2, frame.sets, dtype=wide, device=x.device)
    parameters = counts = None
    if wants_parameters:
        parameters = torch.empty(2, frame.channels, dtype=_parameters_dtype(operands, wide), device=x.device)
        counts = torch.zeros(unit.units, dtype=torch.int32, device=x.device)
    block_channels = unit.block_cols if unit.is_cols else power_of_two(unit.height)
    block_samples = min(power_of_two(frame.batch), max(1, _MOST_ADDED // block_channels))
    with hardware.guard(x.device):
        launch(kernels.backward, (frame.batch * unit.units,))(
            grad, *operands, statistics, totals, sums, parameters, counts, grad_x, grad_residual, inner.a, inner.b,
            frame.sets, frame.group, x.numel() // frame.batch, frame.channels, *unit[:5], frame.batch,
            FORMULAS[inner.name].d1, elementwise(inner.name).masks, *unit[5:], _STAGES, block_samples, block_channels,
            num_warps=unit.num_warps,
        )  # fmt: skip
    return grad_x, grad_residual, parameters


def _parameters_dtype(operands: Operands, wide: torch.dtype) -> torch.dtype:
    """The parameters' own type, if they have one: their gradients need not be converted."""
    found = {parameter.dtype for parameter in operands[2:] if parameter is not None}
    return found.pop() if len(found) == 1 else wide
