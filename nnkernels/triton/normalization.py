"""Layer and rms norm with residual and activation on GPUs: tiles and programs for the kernels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..contracts.computing import wide_dtype
from ..contracts.normalization import Norm, statistics_dtype, summed_dtype
from ..recording import launch
from ..registry import elementwise
from . import hardware
from . import normalization_backward as gradients
from . import normalization_kernels as kernels
from .activations import FORMULAS
from .widths import power_of_two

_MOST_COLUMNS = 16384  # of a row in registers
_MOST_SUMMED_COLUMNS = 8192  # where the sums for each column are in registers too
_WARP_BYTES = 2048  # of a row
_SHORT_TILE_BYTES = 4096  # of several short rows
_MOST_WARPS = 16
_LONG_TILE, _LONG_WARPS, _LONG_STAGES = 4096, 8, 3  # elements of a longer row that are in flight
_SHARE_BYTES = 2**16  # at least, of a longer row, of which several programs have a share
_PARTIALS_TILE = (256, 16)


class Walk(NamedTuple):
    """How a kernel goes over a matrix: tiles of so many rows and of `parts` times `width` columns, and programs on each
    multiprocessor."""

    rows: int
    parts: int
    width: int
    num_warps: int
    each: int
    stages: int

    @property
    def cols(self) -> int:
        return self.parts * self.width


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
    total = None if addend is None else torch.empty(rows, cols, dtype=summed_dtype(x, addend), device=x.device)
    kept = statistics_dtype(x if total is None else total)
    statistics = torch.empty(1 + norm.centred, rows, dtype=kept, device=x.device)
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
            splits, share = _shares(rows, cols, x)
            partial = counts = None
            if splits > 1:
                partial = torch.empty(2 * rows * splits, dtype=torch.float64, device=x.device)
                counts = torch.zeros(1 + rows, dtype=torch.int32, device=x.device)
            launch(kernels.forward_long, (rows * splits,))(
                *given[:8], partial, counts, *given[8:], *strides, splits, share, *constants, power_of_two(splits),
                _LONG_STAGES, _LONG_TILE, num_warps=_LONG_WARPS,
            )  # fmt: skip
        else:
            walk = _forward_walk(cols, x, 1 + (addend is not None) + (residual is not None), norm.is_linear)
            programs = min(walk.each * hardware.multiprocessors(x.device), -(-rows // walk.rows))
            launch(kernels.forward_rows, (programs,))(
                *given, *strides, *constants, walk.cols == cols, walk.stages, *walk[:3], num_warps=walk.num_warps
            )  # fmt: skip
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
    also: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    rows, cols = x.shape
    inner, linear = norm.inner, norm.is_linear
    wide = wide_dtype(x.dtype)
    walk = _backward_walk(cols, x, 2 + (residual is not None) + (grad_sum is not None), linear)
    tiles = -(-cols // walk.cols)
    programs = min(max(1, walk.each * hardware.multiprocessors(x.device) // tiles), -(-rows // walk.rows))
    splits, share = _shares(rows, cols, x) if tiles > 1 else (1, cols)
    parameters = [parameter if wants_parameters else None for parameter in (weight, bias)]
    sums = None if tiles == 1 else torch.empty(2, rows, splits, dtype=wide, device=x.device)
    grad_x = torch.empty(rows, cols, dtype=x.dtype, device=x.device)
    narrowed = None if also is None else torch.empty(rows, cols, dtype=also, device=x.device)
    grad_residual = torch.empty_like(grad_x) if wants_residual and not linear else None
    found = [None if parameter is None else torch.empty_like(parameter) for parameter in parameters]
    partials = found
    if programs > 1:
        partials = [
            None if parameter is None else torch.empty(programs, cols, dtype=wide, device=x.device)
            for parameter in parameters
        ]
    given = (grad, x, residual, weight, bias, statistics, sums)
    places = (inner.a, inner.b, norm.offset, rows, cols, grad.stride(0), x.stride(0), _row_stride(residual))
    value = FORMULAS[inner.name].value if norm.gates else None
    d1 = None if linear else FORMULAS[inner.name].d1
    formula = (int(norm.gates), value, d1, elementwise(inner.name).masks, norm.centred)
    with hardware.guard(x.device):
        if sums is not None:
            launch(gradients.sums_long, (rows * splits,))(
                *given, *places, splits, share, *formula, _LONG_STAGES, _LONG_TILE, num_warps=_LONG_WARPS
            )
        launch(gradients.backward, (programs, tiles))(
            *given, grad_sum, grad_x, narrowed, grad_residual, *partials, *places, _row_stride(grad_sum), splits,
            *formula, cols == tiles * walk.cols, power_of_two(splits), walk.stages, *walk[:3], num_warps=walk.num_warps,
        )  # fmt: skip
        if programs > 1:
            add_up(partials, found)
    return grad_x, grad_residual, found[0], found[1], narrowed


def add_up(partials: list[Tensor | None], found: list[Tensor | None]) -> None:
    """The sums over rows of partial sums for weight and bias, where there are any, into what is to have them."""
    given = [partial for partial in partials if partial is not None]
    if given:
        rows, cols = given[0].shape
        block, block_cols = min(_PARTIALS_TILE[0], power_of_two(rows)), _PARTIALS_TILE[1]
        grid = (-(-cols // block_cols), len(given))
        launch(gradients.add_partials, grid)(*partials, *found, rows, cols, block, block_cols, num_warps=4)


def _row_stride(x: Tensor | None) -> int:
    return 0 if x is None else x.stride(0)


def _shares(rows: int, cols: int, x: Tensor) -> tuple[int, int]:
    """How many programs share a long row, and the columns of each: so few that those of two rows surely run side by
    side, two on a multiprocessor, and so many that what they read twice is still in the cache. Under the interpreter,
    which runs each to its end, one."""
    processors = 0 if hardware.interpreted() else hardware.multiprocessors(x.device)
    wanted = min(cols * x.element_size() // _SHARE_BYTES, processors // 2)
    share = -(-cols // max(1, wanted))
    share = -(-share // _LONG_TILE) * _LONG_TILE
    return -(-cols // share), share


def _forward_walk(cols: int, x: Tensor, operands: int, linear: bool) -> Walk:
    """A warp for every 2 KiB of a row, that is 32 or 16 elements for each thread, and rows of less share a program. 16
    warps on each multiprocessor, with what they take next on its way into shared memory, keep the memory busy while
    they compute. Two rows of 8 KiB share their parameters' registers, where there is little to compute: on an H200
    0.90 instead of 0.85 of the copy's bandwidth."""
    block, vector, row_bytes = _block(cols, x)
    rows = max(1, _SHORT_TILE_BYTES // row_bytes) if row_bytes < _WARP_BYTES else 1
    if linear and row_bytes == 4 * _WARP_BYTES:
        rows = 2
    num_warps = _warps(rows * row_bytes)
    width = 32 * num_warps * vector // (rows if row_bytes < _WARP_BYTES else 1)
    return _fitting(Walk(rows, 1, width, num_warps, max(1, 16 // num_warps), 3), block, operands, x)


def _backward_walk(cols: int, x: Tensor, operands: int, linear: bool) -> Walk:
    """As forward, of half as many warps: each also holds its sums for the parameters. Where there is little to compute
    four warps share 8 KiB of rows, so that there are fewer partial sums."""
    most = _MOST_SUMMED_COLUMNS // (2 if x.element_size() == 8 else 1)
    block, vector, row_bytes = _block(cols if cols <= most else most // 2, x)
    if row_bytes < _WARP_BYTES:
        rows = _SHORT_TILE_BYTES // row_bytes
        num_warps = _warps(rows * row_bytes)
        walk = Walk(rows, 1, 32 * num_warps * vector // rows, num_warps, 8 // num_warps, 1)
    elif linear and row_bytes <= 4 * _WARP_BYTES:
        walk = Walk(4 * _WARP_BYTES // row_bytes, 1, 128 * vector, 4, 2, 3)
    else:
        num_warps = _warps(row_bytes)
        if operands > 2 and num_warps < 8:  # a third operand takes registers as well
            num_warps *= 2
        walk = Walk(1, 1, 32 * num_warps * vector, num_warps, max(1, 8 // num_warps), 3)
    return _fitting(walk, block, operands, x)


def _block(cols: int, x: Tensor) -> tuple[int, int, int]:
    """The columns of a tile, the elements of a 16-byte vector, and the bytes of a row."""
    block, vector = max(16, power_of_two(cols)), 16 // x.element_size()
    return block, vector, block * x.element_size()


def _warps(tile_bytes: int) -> int:
    return max(1, min(_MOST_WARPS, tile_bytes // _WARP_BYTES))


def _fitting(walk: Walk, block: int, operands: int, x: Tensor) -> Walk:
    """With as many parts as make up the columns, and no more stages than shared memory holds, of which other GPUs have
    less."""
    width = min(block, max(16 // x.element_size(), walk.width))
    stage = operands * walk.rows * block * x.element_size()
    room = hardware.shared_memory(x.device) * 7 // 8 // walk.each
    return walk._replace(parts=block // width, width=width, stages=max(1, min(walk.stages, 1 + room // stage)))
