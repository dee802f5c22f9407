"""Activation and cast to 8 bits in Triton: what lies where, which kernel, and in which tiles."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..contracts.gated import Gating, gate_and_up, is_bounded
from ..contracts.inner import Inner
from ..contracts.quantized import BLOCK, LARGEST, Rounding
from ..layout import Geometry, plan
from ..recording import launch
from ..reference import quantized as reference
from . import backend, hardware
from . import quantized_kernels as kernels
from .activations import FORMULAS
from .gated import HALVES, alternate, as_pairs, pair_order, tile_shape

_KINDS = {torch.float8_e4m3fn: kernels.E4M3, torch.float8_e5m2: kernels.E5M2, torch.int8: kernels.INT8}
_TILE = 2048  # elements, 16 for each thread: with 32, gelu's registers leave too few threads to hide the maximum
_LONGEST_ROW = 16384  # elements that one program holds in registers


class _Call(NamedTuple):
    """Where the values come from and go to, and the arguments that do not depend on the tile."""

    tensors: tuple[Tensor, Tensor, Tensor]  # input or gate, the same or up, the codes as uint8
    geometry: Geometry
    numbers: tuple[float, ...]
    constants: dict[str, Any]


def quantize(
    what: Inner | Gating, input: Tensor, up: Tensor | None, rounding: Rounding, scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    q, scales = reference.empty_results(what, input, up, rounding)
    if rounding.granularity == "tensor":
        return q, _by_tensor(_prepare(what, input, up, q), rounding, scale, scales.zero_())
    if q.numel() == 0:
        return q, scales.fill_(1.0)
    call = _prepare(what, input, up, q)
    if rounding.granularity == "row" or q.shape[-1] % BLOCK:
        if call.geometry.rows > 1 and call.geometry.cols != q.shape[-1]:
            operands = gate_and_up(what, input, up) if isinstance(what, Gating) else (input,)
            first, *second = (operand.contiguous() for operand in operands)
            call = _prepare(what, first, second[0] if second else None, q)
        call = call._replace(geometry=_cut(call.geometry, q.shape[-1]))
    if rounding.granularity == "row":
        _by_row(call, rounding, scales)
    else:
        _by_block(call, rounding, scales)
    return q, scales


def _prepare(what: Inner | Gating, input: Tensor, up: Tensor | None, q: Tensor) -> _Call:
    codes = q.view(torch.uint8)
    name, is_gated = (what.activation, True) if isinstance(what, Gating) else (what.name, False)
    numbers = (what.a, what.b, *((what.limit, what.offset) if isinstance(what, Gating) else (0.0, 0.0)))
    constants: dict[str, Any] = {
        "VALUE": FORMULAS[name].value,
        "GATED": is_gated,
        "BOUNDED": isinstance(what, Gating) and is_bounded(what),
        "PAIRS": HALVES,
        "KIND": _KINDS[q.dtype].value,
        "LARGEST": LARGEST[q.dtype],
        "NATIVE": _has_float8(q.device),
    }
    if isinstance(what, Gating) and up is None and alternate(what, input):
        planned = plan(as_pairs(what, input), codes)
        if planned is not None:
            in_x, in_q = planned.strides
            geometry = planned._replace(strides=(2 * in_x, 2 * in_x, in_q))
            return _Call((input, input, codes), geometry, numbers, constants | {"PAIRS": pair_order(what)})
    operands: tuple[Tensor, ...] = gate_and_up(what, input, up) if isinstance(what, Gating) else (input,)
    (rows, cols, strides), operands = backend._fit(operands, (codes,))
    geometry = Geometry(rows, cols, (strides[0], strides[-2], strides[-1]))
    return _Call((operands[0], operands[-1], codes), geometry, numbers, constants)


def _by_tensor(call: _Call, rounding: Rounding, scale: Tensor | None, amax: Tensor) -> Tensor:
    """Writes the codes; returns the scale, or the greatest magnitude if a scale is given. `amax` is 0 before."""
    tile = tile_shape(call.geometry.rows, call.geometry.cols, _TILE)
    _launch(kernels.scaled, call, (scale, amax.view(torch.int32)), tile, {})
    if scale is not None:
        return amax
    scale = reference.scale_of(amax, rounding)
    _launch(kernels.scaled, call, (scale, None), tile, {})
    return scale


def _cut(geometry: Geometry, length: int) -> Geometry:
    """Rows of that length, made of one run or of such rows."""
    rows, cols, strides = geometry
    if rows > 1:
        return geometry
    return Geometry(cols // length, length, tuple(stride // cols * length for stride in strides))


def _by_row(call: _Call, rounding: Rounding, scales: Tensor) -> None:
    rows, cols, strides = call.geometry
    if cols > _LONGEST_ROW:
        with hardware.guard(scales.device):
            launch(kernels.long_rows, (rows,))(
                *call.tensors, scales, *call.numbers, rows, cols, *strides, **call.constants,
                POW2=rounding.pow2, EVEN=cols % 16 == 0, BLOCK_COLS=2 * _TILE, num_warps=_warps(2 * _TILE),
            )  # fmt: skip
        return
    block_cols = max(16, 1 << (cols - 1).bit_length())
    options = {"POW2": rounding.pow2, "GROUP": block_cols}
    _launch(kernels.grouped, call, (scales,), (max(1, _TILE // block_cols), block_cols), options)


def _by_block(call: _Call, rounding: Rounding, scales: Tensor) -> None:
    rows, cols, _ = call.geometry
    block_cols = _TILE if rows == 1 else min(_TILE, max(BLOCK, 1 << (cols - 1).bit_length()))
    options = {"POW2": rounding.pow2, "GROUP": BLOCK}
    _launch(kernels.grouped, call, (scales,), (_TILE // block_cols, block_cols), options)


def _launch(
    kernel: Any, call: _Call, results: tuple[Tensor | None, ...], tile: tuple[int, int], options: dict[str, Any]
) -> None:
    """Starts one program for each tile."""
    (rows, cols, strides), (block_rows, block_cols) = call.geometry, tile
    if rows == 0:
        return
    flat = rows == 1
    if flat:  # strides are unused, so they should not make further variants
        strides, block_rows = (0, 0, 0), 1
    programs = -(-rows // block_rows) * -(-cols // block_cols)
    with hardware.guard(call.tensors[0].device):
        launch(kernel, (programs,))(
            *call.tensors, *results, *call.numbers, rows, cols, *strides, **call.constants, **options,
            FLAT=flat, EVEN=cols % 16 == 0, BLOCK_ROWS=block_rows, BLOCK_COLS=block_cols,
            num_warps=_warps(block_rows * block_cols),
        )  # fmt: skip


def _warps(elements: int) -> int:
    return max(1, min(16, elements // 512))


@cache
def _has_float8(device: torch.device) -> bool:
    """Whether the GPU converts to both 8-bit floats by itself."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 9)
