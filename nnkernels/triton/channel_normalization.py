"""Layer and rms norm over channels on GPUs: tiles and programs for the kernels."""

from __future__ import annotations

from math import gcd
from typing import NamedTuple

import torch
from torch import Tensor

from ..contracts.computing import wide_dtype
from ..contracts.normalization import Norm, statistics_dtype
from ..recording import launch
from ..registry import elementwise
from . import channel_normalization_backward as gradients
from . import channel_normalization_kernels as kernels
from . import hardware
from .activations import FORMULAS
from .normalization import add_up
from .widths import power_of_two

_SEGMENT_BYTES, _LEAST_SEGMENT_BYTES = 128, 64  # of a channel that lie side by side in a tile
_FORWARD_HELD, _BACKWARD_HELD = 16384, 8192  # elements of a tile of all channels
_WIDE_ELEMENTS = 8192  # of one with whole segments
_CHUNK_ELEMENTS = 4096  # of a tile of some channels
_LEAST_ELEMENTS = 2048  # of one of few channels, which is the wider
_FORWARD_ELEMENTS, _BACKWARD_ELEMENTS = 32, 16  # of a thread, of 32 bits
_MOST_WARPS = 16  # on a multiprocessor
_STAGES = 3
_ALIGN = 16
_FARTHEST = 2**31  # elements, within a sample, for offsets of 32 bits


class Tile(NamedTuple):
    """What a program takes at once, and how many programs a multiprocessor has."""

    channels: int
    positions: int
    is_held: bool
    num_warps: int
    each: int
    stages: int


def norm_act(
    norm: Norm, x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    samples, channels, inner = x.shape
    f = norm.inner
    y = torch.empty(samples, channels, inner, dtype=norm.dtype, device=x.device)
    statistics = torch.empty(1 + norm.centred, samples * inner, dtype=statistics_dtype(x), device=x.device)
    tile = forward_tile(x, 1 + (residual is not None))
    tiles = -(-inner // tile.positions)
    kernel = kernels.forward if tile.is_held else kernels.forward_chunks
    with hardware.guard(x.device):
        launch(kernel, (_programs(tile, samples * tiles, x),))(
            x, residual, weight, bias, y, statistics, f.a, f.b, norm.offset, norm.eps, samples * tiles, tiles,
            samples * inner, channels, inner, *_strides(x, residual), FORMULAS[f.name].value, norm.centred,
            *_layout(tile, x, residual), tile.stages, tile.channels, tile.positions, **_registers(tile, x),
        )  # fmt: skip
    return y, statistics


def norm_act_backward(
    norm: Norm,
    grad: Tensor,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    wants_residual: bool,
    wants_parameters: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    samples, channels, inner = x.shape
    f, linear = norm.inner, norm.is_linear
    tile = backward_tile(x, 2 + (residual is not None))
    tiles = -(-inner // tile.positions)
    programs = _programs(tile, samples * tiles, x)
    grad_x = torch.empty(samples, channels, inner, dtype=x.dtype, device=x.device)
    grad_residual = torch.empty_like(grad_x) if wants_residual and not linear else None
    parameters = [parameter if wants_parameters else None for parameter in (weight, bias)]
    found = [None if parameter is None else torch.empty_like(parameter) for parameter in parameters]
    partials = [
        None if parameter is None else torch.empty(programs, channels, dtype=wide_dtype(x.dtype), device=x.device)
        for parameter in parameters
    ]
    kernel = gradients.backward if tile.is_held else gradients.backward_chunks
    with hardware.guard(x.device):
        launch(kernel, (programs,))(
            grad, x, residual, weight, bias, statistics, grad_x, grad_residual, *partials, f.a, f.b, norm.offset,
            samples * tiles, tiles, samples * inner, channels, inner, *_strides(grad, x, residual),
            None if linear else FORMULAS[f.name].d1, elementwise(f.name).masks, norm.centred,
            *_layout(tile, grad, x, residual), tile.stages, tile.channels, tile.positions, **_registers(tile, x),
        )  # fmt: skip
        add_up(partials, found)
    return grad_x, grad_residual, found[0], found[1]


def forward_tile(x: Tensor, operands: int) -> Tile:
    return _tile(x, operands, _FORWARD_HELD, _FORWARD_ELEMENTS)


def backward_tile(x: Tensor, operands: int) -> Tile:
    """Of half as many elements for each thread, which holds those of several operands."""
    return _tile(x, operands, _BACKWARD_HELD, _BACKWARD_ELEMENTS)


def _tile(x: Tensor, operands: int, most: int, of_thread: int) -> Tile:
    """Of all channels if registers hold them in half a segment of positions, else of a chunk of them. Whole segments
    are taken where two programs still fit on a multiprocessor, and more of few channels."""
    size, scale = x.element_size(), max(1, x.element_size() // 4)
    _, channels, inner = x.shape
    block, whole = power_of_two(channels), power_of_two(inner)
    least = min(whole, _LEAST_SEGMENT_BYTES // size)
    is_held = block * least * scale <= most
    widest = max(_SEGMENT_BYTES // size, _LEAST_ELEMENTS // block)
    if is_held:
        widest = max(least, min(widest, _WIDE_ELEMENTS // scale // block))
    else:
        of_thread = _BACKWARD_ELEMENTS
    widths = [1 << bit for bit in range(widest.bit_length()) if least <= 1 << bit <= whole]
    positions = _fewest_beyond(widths, inner)
    if not is_held:
        block = max(1, _CHUNK_ELEMENTS // scale // positions)
    num_warps = max(1, min(_MOST_WARPS, block * positions * scale // (32 * of_thread)))
    each = _MOST_WARPS // num_warps
    tile = block * positions * size
    room = hardware.shared_memory(x.device) * 7 // 8 // each - tile  # of which exchanges may take as much as a tile
    return Tile(block, positions, is_held, num_warps, each, max(1, min(_STAGES, 1 + room // (operands * tile))))


def _fewest_beyond(widths: list[int], inner: int) -> int:
    """The greatest width of which few positions lie beyond the end."""
    reach = {width: -(-inner // width) * width for width in widths}
    return max(width for width in widths if reach[width] <= 1.1 * min(reach.values()))


def _programs(tile: Tile, tiles: int, x: Tensor) -> int:
    return min(tile.each * hardware.multiprocessors(x.device), tiles)


def _registers(tile: Tile, x: Tensor) -> dict[str, int]:
    """The compiler takes more than it needs where nothing stops it; of wider types it needs them."""
    limit = {"maxnreg": 2**16 // (32 * _MOST_WARPS)} if x.element_size() == 2 else {}
    return {"num_warps": tile.num_warps, **limit}


def _strides(*operands: Tensor | None) -> list[int]:
    """Of samples and channels, operand by operand."""
    return [stride for one in operands for stride in ((0, 0) if one is None else one.stride()[:2])]


def _layout(tile: Tile, *operands: Tensor | None) -> tuple[bool, bool, bool, bool, int]:
    """Whether whole tiles are all channels, and all positions, whether channels lie one behind the other everywhere, or
    so far apart that offsets need 64 bits, and of what all distances are multiples."""
    given = [one for one in operands if one is not None]
    _, channels, inner = given[0].shape
    apart = [inner, *(one.stride(1) for one in given)]
    align = gcd(inner, _ALIGN, *_strides(*operands))
    is_wide = (channels + tile.channels) * max(apart) + tile.positions > _FARTHEST
    return channels % tile.channels == 0, inner % tile.positions == 0, set(apart) == {inner}, is_wide, align
