"""Layer and rms norm over channels on GPUs: tiles and programs for the kernels."""

from __future__ import annotations

from math import ceil, gcd
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

_LEAST_SEGMENT_BYTES, _SEGMENT_BYTES = 32, 128  # of a channel that lie side by side in a group
_CHUNK_SEGMENT_BYTES = 64  # where channels are taken in chunks
_ALONE_ELEMENTS, _ELEMENTS = 64, 32  # of a thread, of 32 bits, of one operand and of each of several
_LEAST_ELEMENTS = 16  # of a thread where channels are few
_NUM_WARPS = 4
_SHARING = 4  # the most warps that share a group's channels in order to hold them
_PROGRAMS, _MORE_PROGRAMS = 3, 4  # on a multiprocessor, and where registers suffice
_STAGES = 1  # of chunks
_ALIGN = 4  # elements that a thread takes at once: with more of a channel it has fewer channels, and exchanges more
_FARTHEST = 2**31  # elements, within a sample, for offsets of 32 bits


class Tile(NamedTuple):
    """What a program takes at once: `groups` of adjacent positions, with `steps` times `lanes` channels of each.

    Attributes:
        steps: channels of a group that a thread has, one after the other.
        groups: of positions, each a warp's, or that of warps which share its channels.
        lanes: channels of a step, which a group's threads have side by side.
        width: positions of a group.
        is_held: whether these are all channels, so that each number is read once.
        each: programs on a multiprocessor.
        stages: chunks of channels on their way into shared memory.
    """

    steps: int
    groups: int
    lanes: int
    width: int
    is_held: bool
    each: int
    stages: int

    @property
    def channels(self) -> int:
        return self.steps * self.lanes


def norm_act(
    norm: Norm, x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    samples, channels, inner = x.shape
    f = norm.inner
    y = torch.empty(samples, channels, inner, dtype=norm.dtype, device=x.device)
    statistics = torch.empty(1 + norm.centred, samples * inner, dtype=statistics_dtype(x), device=x.device)
    tile = tile_of(*_given(x, residual))
    tiles = -(-inner // tile.width)
    kernel = kernels.forward if tile.is_held else kernels.forward_chunks
    with hardware.guard(x.device):
        launch(kernel, (_programs(tile, samples * tiles, x),))(
            x, residual, weight, bias, y, statistics, f.a, f.b, norm.offset, norm.eps, samples * tiles, tiles,
            samples * inner, channels, inner, *_strides(x, residual), FORMULAS[f.name].value, norm.centred,
            *_layout(tile, x, residual), tile.stages, tile.steps, tile.groups, tile.lanes, tile.width,
            **_registers(tile, x),
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
    tile = tile_of(*_given(x, grad, residual))
    tiles = -(-inner // tile.width)
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
            *_layout(tile, grad, x, residual), tile.stages, tile.steps, tile.groups, tile.lanes, tile.width,
            **_registers(tile, x),
        )  # fmt: skip
        add_up(partials, found)
    return grad_x, grad_residual, found[0], found[1]


def tile_of(*operands: Tensor) -> Tile:
    """Of all channels if registers of a few warps hold them, else of a chunk of them. Warps share a group's channels
    where one alone does not hold them or groups are too few to occupy all multiprocessors alike."""
    x = operands[0]
    size, scale = x.element_size(), max(1, x.element_size() // 4)
    samples, channels, inner = x.shape
    block, whole = power_of_two(channels), power_of_two(inner)
    vector = gcd(_alignment(*operands), 16 // size)
    least, widest = (min(whole, 32 * vector, segment // size) for segment in (_LEAST_SEGMENT_BYTES, _SEGMENT_BYTES))
    of_thread = _ALONE_ELEMENTS if len(operands) == 1 else _ELEMENTS
    width = _fewest_beyond(least, max(least, min(widest, 32 * of_thread // scale // block)), inner)
    sharing = max(1, block * width * scale // (32 * of_thread))
    is_held = sharing <= _SHARING
    if not is_held:
        sharing, of_thread = 1, _ELEMENTS
        width = min(whole, 32 * vector, _CHUNK_SEGMENT_BYTES // size)
    each = _PROGRAMS if is_held or len(operands) > 1 else _MORE_PROGRAMS
    sharing = _fullest(samples * -(-inner // width), sharing, each * hardware.multiprocessors(x.device))
    if not is_held:
        block = max(1, min(block, sharing * 32 * of_thread // scale // width))
    lanes = min(block, sharing * max(1, 32 * vector // width))
    least_groups = _NUM_WARPS * 32 * max(vector, _LEAST_ELEMENTS // scale) // (block * width)
    groups = max(_NUM_WARPS // sharing, least_groups)
    tile = block * groups * width * size
    room = hardware.shared_memory(x.device) * 7 // 8 // each - tile  # which exchanges may take as much of
    # Of what is on its way into shared memory the compiler forgets the layout, and takes that of the parameters.
    stages = 1 if is_held else max(1, min(_STAGES, 1 + room // (len(operands) * tile)))
    return Tile(block // lanes, groups, lanes, width, is_held, each, stages)


def _fewest_beyond(least: int, widest: int, inner: int) -> int:
    """The greatest width between these of which few positions lie beyond the end."""
    reach = {1 << bit: -(-inner >> bit << bit) for bit in range(least.bit_length() - 1, widest.bit_length())}
    return max(width for width in reach if reach[width] <= 1.1 * min(reach.values()))


def _fullest(groups: int, least: int, programs: int) -> int:
    """How many warps share a group, at least so many: as few as leave hardly more of the programs idle at the end."""
    busy = {}
    for sharing in (1 << bit for bit in range(_NUM_WARPS.bit_length())):
        if sharing >= least:
            rounds = groups * sharing / _NUM_WARPS / programs
            busy[sharing] = rounds / max(1, ceil(rounds))
    return next(sharing for sharing in busy if busy[sharing] >= 0.9 * max(busy.values()))


def _programs(tile: Tile, groups: int, x: Tensor) -> int:
    return min(tile.each * hardware.multiprocessors(x.device), -(-groups // tile.groups))


def _registers(tile: Tile, x: Tensor) -> dict[str, int]:
    """The compiler takes more than it needs where nothing stops it; of wider types it needs them."""
    limit = {"maxnreg": 2**16 // (32 * _NUM_WARPS * tile.each) // 8 * 8} if x.element_size() == 2 else {}
    return {"num_warps": _NUM_WARPS, **limit}


def _given(*operands: Tensor | None) -> list[Tensor]:
    return [one for one in operands if one is not None]


def _strides(*operands: Tensor | None) -> list[int]:
    """Of samples and channels, operand by operand."""
    return [stride for one in operands for stride in ((0, 0) if one is None else one.stride()[:2])]


def _alignment(*operands: Tensor | None) -> int:
    """Of what all distances are multiples."""
    given = _given(*operands)
    return gcd(given[0].shape[2], _ALIGN, *_strides(*given))


def _layout(tile: Tile, *operands: Tensor | None) -> tuple[bool, bool, bool, bool, int]:
    """Whether whole tiles are all channels, and all positions, whether channels lie one behind the other everywhere, or
    so far apart that offsets need 64 bits, and of what all distances are multiples."""
    given = _given(*operands)
    samples, channels, inner = given[0].shape
    apart = [inner, *(one.stride(1) for one in given)]
    is_wide = (channels + tile.channels) * max(apart) + tile.width > _FARTHEST
    is_even = inner % tile.width == 0 and samples * (inner // tile.width) % tile.groups == 0
    return channels % tile.channels == 0, is_even, set(apart) == {inner}, is_wide, _alignment(*operands)
