"""Layer and rms norm with residual and activation on GPUs: tiles and programs for the kernels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..contracts.normalization import Norm, statistics_dtype
from ..recording import launch
from ..registry import elementwise
from . import hardware
from . import normalization_backward as gradients
from . import normalization_kernels as kernels
from .activations import FORMULAS
from .widths import power_of_two

_MOST_COLUMNS = 16384  # of a row in registers
_MOST_SUMMED_COLUMNS = 8192  # where the sums for each column are in registers too
_TILE = 2048  # elements of several short rows
_LONG_TILE = 8192  # elements of a longer row that are in flight
_PARTIALS_TILE = (64, 16)


class Walk(NamedTuple):
    """How `backward` goes over a matrix: tiles of so many rows and columns, and programs on each multiprocessor."""

    block_rows: int
    block_cols: int
    num_warps: int
    each: int
    stages: int


def norm_act(
    norm: Norm,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    addend: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    rows, cols = x.shape
    inner = norm.inner
    y = torch.empty(rows, cols, dtype=norm.dtype, device=x.device)
    total = None if addend is None else torch.empty(rows, cols, dtype=x.dtype, device=x.device)
    statistics = torch.empty(1 + norm.centred, rows, dtype=statistics_dtype(x), device=x.device)
    given = (
        x,
        addend,
        residual,
        weight,
        bias,
        total,
        y,
        statistics,
        inner.a,
        inner.b,
        norm.offset,
        norm.eps,
        rows,
        cols,
    )
    strides = (x.stride(0), _row_stride(addend), _row_stride(residual))
    constants = (FORMULAS[inner.name].value, norm.centred, int(norm.gates))
    with hardware.guard(x.device):
        if cols > _MOST_COLUMNS:
            launch(kernels.forward_long, (rows,))(*given, *strides, *constants, _LONG_TILE, num_warps=8)
        else:
            block_rows, block_cols, num_warps = _rows(cols, norm.is_linear)
            launch(kernels.forward_rows, (-(-rows // block_rows),))(
                *given, *strides, *constants, block_cols == cols, block_rows, block_cols, num_warps=num_warps
            )
    return y, statistics, total


def norm_act_backward(
    norm: Norm,
    grad: Tensor,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    grad_sum: Tensor | None,
    wants_residual: bool,
    wants_parameters: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    rows, cols = x.shape
    inner, linear = norm.inner, norm.is_linear
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    walk = _walk(cols, x, 2 + (residual is not None) + (grad_sum is not None), linear)
    programs = min(walk.each * hardware.multiprocessors(x.device), -(-rows // walk.block_rows))
    tiles = -(-cols // walk.block_cols)
    parameters = [parameter if wants_parameters else None for parameter in (weight, bias)]
    sums = None if tiles == 1 else torch.empty(2, rows, dtype=wide, device=x.device)
    grad_x = torch.empty(rows, cols, dtype=x.dtype, device=x.device)
    grad_residual = torch.empty_like(grad_x) if wants_residual and not linear else None
    partials = [
        None if parameter is None else torch.empty(programs, cols, dtype=wide, device=x.device)
        for parameter in parameters
    ]
    found = [None if parameter is None else torch.empty_like(parameter) for parameter in parameters]
    given = (grad, x, residual, weight, bias, statistics, sums)
    places = (inner.a, inner.b, norm.offset, rows, cols, grad.stride(0), x.stride(0), _row_stride(residual))
    value = FORMULAS[inner.name].value if norm.gates else None
    d1 = None if linear else FORMULAS[inner.name].d1
    formula = (int(norm.gates), value, d1, elementwise(inner.name).masks, norm.centred)
    with hardware.guard(x.device):
        if sums is not None:
            launch(gradients.sums_long, (rows,))(*given, *places, *formula, _LONG_TILE, num_warps=8)
        launch(gradients.backward, (programs, tiles))(
            *given, grad_sum, grad_x, grad_residual, *partials, *places, _row_stride(grad_sum), *formula,
            cols == tiles * walk.block_cols, walk.stages, walk.block_rows, walk.block_cols, num_warps=walk.num_warps,
        )  # fmt: skip
        wanted = sum(parameter is not None for parameter in parameters)
        if wanted:
            block, block_cols = _PARTIALS_TILE
            grid = (-(-cols // block_cols), wanted)
            launch(gradients.add_partials, grid)(*partials, *found, programs, cols, block, block_cols, num_warps=4)
    return grad_x, grad_residual, found[0], found[1]


def _row_stride(x: Tensor | None) -> int:
    return 0 if x is None else x.stride(0)


def _rows(cols: int, linear: bool) -> tuple[int, int, int]:
    """Rows and columns of a tile, and its warps: 32 elements for each thread. Two rows of 4096 columns share weight and
    bias, which on an H100 is worth 0.96 instead of 0.92 of the copy's bandwidth, unless an activation is to be computed
    meanwhile."""
    block_cols = max(16, power_of_two(cols))
    block_rows = 2 if linear and block_cols == 4096 else max(1, _TILE // block_cols)
    return block_rows, block_cols, max(1, block_rows * block_cols // 1024)


def _walk(cols: int, x: Tensor, operands: int, linear: bool) -> Walk:
    """Deep prefetching keeps the memory busy, as H100s showed: of a few warps, or where they compute more, of twice as
    many. What is prefetched lies in shared memory, of which other GPUs have less."""
    block_cols = min(max(16, power_of_two(cols)), _MOST_SUMMED_COLUMNS // (2 if x.element_size() == 8 else 1))
    block_rows = max(1, _TILE // block_cols)
    each, num_warps, stages = (2, 4, 4) if linear else (4, 4, 3)
    if block_cols > 2048:
        each, num_warps, stages = (1, 16, 4) if linear or block_cols > 4096 else (2, 8, 3)
    stage = operands * block_rows * block_cols * x.element_size()
    room = hardware.shared_memory(x.device) * 7 // 8 // each
    return Walk(block_rows, block_cols, num_warps, each, max(1, min(stages, 1 + room // stage)))
