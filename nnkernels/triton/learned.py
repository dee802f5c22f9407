"""The activations with learned parameters on GPUs: one pass over the data, then a small kernel for the partial sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..contracts.computing import wide_dtype
from ..layout import plan
from ..recording import launch
from . import hardware
from . import learned_formulas as formulas
from . import learned_kernels as kernels
from .widths import power_of_two

# Partial sums of a channel and of all: enough to fill the largest GPU several times, few enough to be quickly added.
_CHUNKS = 128
_PROGRAMS = 4096
_FLATTILE_BYTES = 4096


class _Formula(NamedTuple):
    value: Any
    gradient: Any
    shares: Any
    factors: Any


def _formula(name: str) -> _Formula:
    value, gradient, shares = (getattr(formulas, f"{name}_{part}") for part in ("value", "gradient", "shares"))
    return _Formula(value, gradient, shares, getattr(formulas, f"{name}_factors", formulas.nothing_lacks))


FORMULAS = {
    name: _formula(name) for name in (one.removesuffix("_value") for one in vars(formulas) if one.endswith("_value"))
}
"""By name the three functions that stand in `learned_formulas.py`."""


class _Given(NamedTuple):
    """Parameters as kernels take them: three tensors, of which `used` count, of `segments` rows; two constants."""

    tensors: tuple[Tensor, ...]
    constants: tuple[float, ...]
    used: int
    segments: int
    channels: int


def _given(name: str, parameters: Sequence[Tensor], constants: tuple[float, ...]) -> _Given:
    tensors = [parameter.contiguous() for parameter in parameters]
    segments = tensors[0].shape[0] if name == "apl" else 1
    channels = tensors[0].numel() // segments if segments else 0
    padded = (*tensors, *tensors[:1] * (3 - len(tensors)))
    return _Given(padded, (*constants, 0.0, 0.0)[:2], len(tensors), segments, channels)


class Runs(NamedTuple):
    """`outer` runs of `inner` adjacent elements for each channel; strides in elements, one for each operand."""

    outer: int
    channels: int
    inner: int
    outer_strides: tuple[int, ...]
    channel_strides: tuple[int, ...]


def lay_out(per_channel: bool, *tensors: Tensor) -> Runs | None:
    """The common layout of tensors of one shape, the output last; None if some have to be copied first.

    Example:
        >>> import torch
        >>> lay_out(True, torch.zeros(2, 3, 4, 4))
        Runs(outer=2, channels=3, inner=16, outer_strides=(48,), channel_strides=(16,))
    """
    out = tensors[-1]
    zeros = (0,) * len(tensors)
    if not per_channel:
        geometry = plan(*tensors)
        return geometry and Runs(geometry.rows, 1, geometry.cols, geometry.strides, zeros)
    strides = [tensor.stride() for tensor in tensors]
    order = sorted((d for d, size in enumerate(out.shape) if size != 1), key=out.stride().__getitem__)
    inner, channel_strides, outer, outer_strides = 1, None, 1, zeros
    for d in order:
        steps = tuple(stride[d] for stride in strides)
        if d == 1:
            channel_strides = steps
            if inner == 1 and set(steps) != {1}:
                return None
        elif channel_strides is None:
            if set(steps) != {inner}:
                return None
            inner *= out.shape[d]
        elif outer == 1:
            outer, outer_strides = out.shape[d], steps
        elif steps == tuple(outer * stride for stride in outer_strides):
            outer *= out.shape[d]
        else:
            return None
    return Runs(outer, out.shape[1], inner, outer_strides, channel_strides or zeros)


def _fit(inputs: tuple[Tensor, ...], output: Tensor, per_channel: bool) -> tuple[Runs, tuple[Tensor, ...]]:
    for fits in (lambda tensor: True, lambda tensor: lay_out(per_channel, tensor, output), lambda tensor: False):
        inputs = tuple(tensor if fits(tensor) else torch.empty_like(output).copy_(tensor) for tensor in inputs)
        runs = lay_out(per_channel, *inputs, output)
        if runs is not None:
            return runs, inputs
    raise ValueError(f"tensors of one shape are needed, got {[tuple(tensor.shape) for tensor in inputs]}")


def _vector(runs: Runs, element_size: int) -> int:
    """How many adjacent elements one thread may load at once: 16 bytes if every run divides into them."""
    most = 16 // element_size
    return most if runs.outer == 1 else math.gcd(most, runs.inner, *runs.outer_strides, *runs.channel_strides)


def _width(runs: Runs, columns: int) -> int:
    """Columns of a row: the channels, or so many rows of channels, where they lie in one piece, that tiles are full."""
    dense = set(runs.outer_strides) == {runs.channels}
    if not dense or runs.channels % columns == 0:
        return runs.channels
    full = math.lcm(runs.channels, columns)
    if full * 64 <= runs.outer * runs.channels:
        return full
    return runs.channels * max(1, min(columns // runs.channels, runs.outer))


def forward(
    name: str,
    x: Tensor,
    parameters: Sequence[Tensor],
    constants: tuple[float, ...] = (),
    out: Tensor | None = None,
) -> Tensor:
    given = _given(name, parameters, constants)
    per_channel, shape = given.channels > 1, (given.used, given.segments)
    y = torch.empty_like(x) if out is None or lay_out(per_channel, out) is None else out
    if x.numel():
        runs, (x,) = _fit((x,), y, per_channel)
        value, tile = FORMULAS[name].value, hardware.TILE_BYTES // x.element_size()
        with hardware.guard(x.device):
            if runs.channels > 1 and runs.inner == 1:
                columns = min(hardware.TILE_BYTES // 4 // x.element_size(), power_of_two(runs.channels * runs.outer))
                rows, width, strides = _as_rows(runs, columns)
                grid = (-(-width // columns) * -(-rows // 4),)
                launch(kernels.forward_columns, grid)(
                    x, y, *given.tensors, *given.constants, runs.outer * runs.channels, width, runs.channels, *strides,
                    value, *shape, 4, columns, num_warps=hardware.NUM_WARPS,
                )  # fmt: skip
            elif runs.channels > 1 and _is_flat(runs):
                total, *flat = _flat_tile(x, runs.inner, runs.channels)
                tile = flat[-2]
                launch(kernels.forward_flat, (-(-total // tile),))(
                    x, y, *given.tensors, *given.constants, total, runs.inner, runs.channels, value, *shape,
                    runs.inner >= tile, *flat, num_warps=hardware.NUM_WARPS,
                )  # fmt: skip
            else:
                total, vector = runs.outer * runs.inner, _vector(runs, x.element_size())
                tile = min(tile, power_of_two(total))
                launch(kernels.forward_runs, (-(-total // tile) * runs.channels,))(
                    x, y, *given.tensors, *given.constants, total, runs.inner, runs.channels, given.channels,
                    *runs.outer_strides, *runs.channel_strides, value, *shape, runs.outer == 1, total >= 2**30,
                    max(tile // vector, 1), vector, num_warps=hardware.NUM_WARPS,
                )  # fmt: skip
    return y if out is None or out is y else out.copy_(y)


def _is_flat(runs: Runs) -> bool:
    """Whether all elements are adjacent, channel after channel."""
    dense = runs.outer == 1 or set(runs.outer_strides) == {runs.inner * runs.channels}
    return dense and set(runs.channel_strides) == {runs.inner}


def _flat_tile(x: Tensor, inner: int, channels: int) -> tuple[int, bool, bool, int, int]:
    """The elements, and the constants WIDE, WRAPS, TILE and PER of the kernels that take them in their order."""
    total, size = x.numel(), x.element_size()
    tile = _FLATTILE_BYTES // size
    return total, total >= 2**31, tile > inner * channels, tile, math.gcd(inner, 16 // size)


def backward(
    name: str,
    grad: Tensor,
    x: Tensor,
    parameters: Sequence[Tensor],
    constants: tuple[float, ...],
    for_parameters: bool,
) -> tuple[Tensor, Sequence[Tensor]]:
    grad_x = torch.empty_like(x)
    if x.numel() == 0:
        return grad_x, [torch.zeros_like(parameter) for parameter in parameters]
    given = _given(name, parameters, constants)
    runs, (grad, x) = _fit((grad, x), grad_x, given.channels > 1)
    summed = _backward_columns if runs.channels > 1 and runs.inner == 1 else _backward_runs
    with hardware.guard(x.device):
        sums = given.used * given.segments
        partials, chunks = summed(name, (grad, x, grad_x), given, runs, sums if for_parameters else 0)
        if not for_parameters:
            return grad_x, []
        gradients = [torch.empty_like(one, memory_format=torch.contiguous_format) for one in parameters]
        columns = min(32, power_of_two(given.channels))
        launch(kernels.add_up, (sums, -(-given.channels // columns)))(
            partials, *given.tensors, *gradients, *gradients[:1] * (3 - given.used), *given.constants, chunks,
            given.channels, FORMULAS[name].factors, given.used, given.segments,
            min(4096 // columns, power_of_two(chunks)), columns, num_warps=hardware.NUM_WARPS,
        )  # fmt: skip
    return grad_x, gradients


def _as_rows(runs: Runs, columns: int) -> tuple[int, int, list[int]]:
    width = _width(runs, columns)
    if width == runs.channels:
        return runs.outer, width, [*runs.outer_strides]
    return -(-runs.outer * runs.channels // width), width, [width] * len(runs.outer_strides)


def _partials(x: Tensor, sums: int, chunks: int, columns: int) -> Tensor:
    dtype = wide_dtype(x.dtype)
    return torch.empty((sums, chunks, columns), dtype=dtype, device=x.device)


def _backward_runs(name: str, tensors: tuple[Tensor, ...], given: _Given, runs: Runs, sums: int) -> tuple[Tensor, int]:
    size, total = tensors[0].element_size(), runs.outer * runs.inner
    many = sums > 2 and runs.channels > 1  # then the sums take the registers that a second load would
    vector, tile = _vector(runs, size), min(hardware.TILE_BYTES // (4 if many else 2) // size, power_of_two(total))
    tiles = -(-total // tile)
    # The fewer tiles a program has, the closer programs follow each other through memory; but each pays for the end of
    # its sums.
    each = max(1, sums // 2 if many else 1, tiles // max(_CHUNKS, _PROGRAMS // runs.channels)) if sums else 1
    each = min(each, tiles)
    chunks = -(-tiles // each)
    partials = _partials(tensors[0], sums, chunks, runs.channels)
    _, gradient, shares, _ = FORMULAS[name]
    launch(kernels.backward_runs, (chunks * runs.channels,))(
        *tensors, *given.tensors, partials, *given.constants, total, runs.inner, runs.channels, given.channels,
        *runs.outer_strides, *runs.channel_strides, chunks, each, gradient, shares, sums, given.used, given.segments,
        runs.outer == 1, total >= 2**30, max(tile // vector, 1), vector, num_warps=hardware.NUM_WARPS,
    )  # fmt: skip
    return partials, chunks


def _backward_columns(
    name: str, tensors: tuple[Tensor, ...], given: _Given, runs: Runs, sums: int
) -> tuple[Tensor, int]:
    # So wide that rows lie within threads: 128 of them with 16 bytes each, or 8 where many sums want their registers.
    bytes_each, rows_each = (16, 2) if sums <= 2 else (8, 2)
    columns = bytes_each * 32 * hardware.NUM_WARPS // tensors[0].element_size()
    rows, width, strides = _as_rows(runs, columns)
    columns = min(columns, power_of_two(width))
    blocks, tiles = -(-width // columns), -(-rows // rows_each)
    each = max(1, tiles * blocks // (_PROGRAMS // 4)) if sums else 1
    chunks = -(-tiles // each)
    partials = _partials(tensors[0], sums, chunks, width)
    _, gradient, shares, _ = FORMULAS[name]
    launch(kernels.backward_columns, (blocks * chunks,))(
        *tensors, *given.tensors, partials, *given.constants, runs.outer * runs.channels, width, runs.channels,
        *strides, chunks, each, gradient, shares, sums, given.used, given.segments, rows_each, columns,
        num_warps=hardware.NUM_WARPS,
    )  # fmt: skip
    return partials, chunks * width // runs.channels


def prelu_signs(x: Tensor, y: Tensor, weight: Tensor, inner: int) -> Tensor:
    packed = torch.empty(-(-x.numel() // 8), dtype=torch.uint8, device=x.device)
    _launch_signs(x, y, packed, weight, inner, False)
    return packed


def prelu_from_signs(grad: Tensor, packed: Tensor, weight: Tensor, inner: int) -> Tensor:
    grad_x = torch.empty_like(grad)
    _launch_signs(grad, grad_x, packed, weight, inner, True)
    return grad_x


def _launch_signs(source: Tensor, target: Tensor, packed: Tensor, weight: Tensor, inner: int, back: bool) -> None:
    if source.numel():
        if weight.numel() == 1:
            inner = _FLATTILE_BYTES  # as good as any, and one that vectors divide
        total, *constants = _flat_tile(source, inner, weight.numel())
        with hardware.guard(source.device):
            launch(kernels.prelu_signs, (-(-total // constants[-2]),))(
                source, target, packed, weight.contiguous(), total, inner, weight.numel(), back, *constants,
                num_warps=hardware.NUM_WARPS,
            )  # fmt: skip
