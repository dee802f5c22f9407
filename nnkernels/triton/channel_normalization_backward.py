"""The gradients of layer and rms norm over channels, from what was normalised and its positions' statistics.

Tiles and programs are those of `channel_normalization_kernels`. A program adds up the parameters' gradients over its
tiles and leaves one row of partial sums.
"""

import triton
import triton.language as tl

from .channel_normalization_kernels import (
    SIZES,
    both,
    channels_from,
    existing,
    load_given,
    of_position,
    of_position_both,
    offsets,
    spread,
    start,
    tile_of,
    weight_of,
)
from .math import compute_type, is_fast
from .normalization_formulas import add_both, normalise, slope_of
from .reducing_tiles import aligned
from .tiles import load_inside, store_inside


@triton.jit
def _sloped(
    grad_ptr, x_ptr, residual_ptr, grad_at, x_at, residual_at, weight, bias, statistics_ptr, row, rows, inside, exists,
    a, b, D1: tl.constexpr, MASKS: tl.constexpr, CENTRED: tl.constexpr, FAST: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Of a tile, the gradient of the activation's argument, 0 where nothing is, what was normalised, 1 / deviation."""
    grad, x = load_inside(grad_ptr + grad_at, inside).to(COMPUTE), load_inside(x_ptr + x_at, inside).to(COMPUTE)
    residual = load_given(residual_ptr, residual_at, inside)
    normalised, deviation = normalise(x, statistics_ptr, row, rows, exists, CENTRED, COMPUTE)
    grad, _ = slope_of(grad, normalised, weight, bias, residual, a, b, 0, None, D1, MASKS, FAST, COMPUTE)
    if inside is not None:
        grad = tl.where(inside, grad, 0.0)
    return grad, normalised, deviation


@triton.jit
def _of_channel(for_weight_ptr, for_bias_ptr, grad, normalised):
    """What each group adds to the gradients of weight and bias; anything for what is missing."""
    if for_weight_ptr is not None and for_bias_ptr is not None:
        return tl.reduce((grad * normalised, grad), 3, add_both, keep_dims=True)
    else:
        total = tl.sum(grad if for_weight_ptr is None else grad * normalised, 3, keep_dims=True)
        return total, total


@triton.jit(do_not_specialize=SIZES)
def backward(
    grad_ptr, x_ptr, residual_ptr, weight_ptr, bias_ptr, statistics_ptr, grad_x_ptr, grad_residual_ptr,
    for_weight_ptr, for_bias_ptr, a: tl.float64, b: tl.float64, added: tl.float64, numbers, tiles, rows, channels,
    inner, grad_sample, grad_channel, x_sample, x_channel, residual_sample, residual_channel, D1: tl.constexpr,
    MASKS: tl.constexpr, CENTRED: tl.constexpr, FULL: tl.constexpr, EVEN: tl.constexpr, DENSE: tl.constexpr,
    WIDE: tl.constexpr, ALIGN: tl.constexpr, STAGES: tl.constexpr, STEPS: tl.constexpr, GROUPS: tl.constexpr,
    LANES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Of tiles of all channels."""
    FAST: tl.constexpr = is_fast(x_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype)
    channel = channels_from(0, STEPS, LANES)
    there = existing(channel, channels, FULL)
    weight = spread(weight_of(weight_ptr, channel, there, added, COMPUTE), LANES, GROUPS, STEPS, WIDTH)
    bias = None if D1 is None else spread(load_given(bias_ptr, channel, there), LANES, GROUPS, STEPS, WIDTH)
    grad_at = offsets(channel, inner, grad_channel, DENSE, WIDE, ALIGN, WIDTH)
    x_at = offsets(channel, inner, x_channel, DENSE, WIDE, ALIGN, WIDTH)
    residual_at = offsets(channel, inner, residual_channel, DENSE, WIDE, ALIGN, WIDTH)
    made_at = offsets(channel, inner, inner, True, WIDE, ALIGN, WIDTH)
    count = tl.full((), channels, COMPUTE)
    for_weight = tl.zeros((LANES, GROUPS, STEPS, 1), COMPUTE)
    for_bias = for_weight
    for first in tl.range(tl.program_id(0) * GROUPS, numbers, tl.num_programs(0) * GROUPS, num_stages=STAGES):
        group, sample, begin, position = tile_of(first, tiles, GROUPS, WIDTH)
        row, exists = sample * inner + position, None
        if not EVEN:
            exists = (group < numbers) & (position < aligned(inner, ALIGN))
        inside = both(there, exists)
        grad, normalised, deviation = _sloped(
            start(grad_ptr, sample, begin, grad_sample, ALIGN), start(x_ptr, sample, begin, x_sample, ALIGN),
            start(residual_ptr, sample, begin, residual_sample, ALIGN), grad_at, x_at, residual_at, weight, bias,
            statistics_ptr, row, rows, inside, exists, a, b, D1, MASKS, CENTRED, FAST, COMPUTE,
        )  # fmt: skip
        if grad_residual_ptr is not None:
            store_inside(start(grad_residual_ptr, sample * channels, begin, inner, ALIGN) + made_at, grad, inside)
        if for_weight_ptr is not None or for_bias_ptr is not None:
            of_weight, of_bias = _of_channel(for_weight_ptr, for_bias_ptr, grad, normalised)
            for_weight += of_weight
            for_bias += of_bias
        if weight is not None:
            grad *= weight
        if CENTRED:
            along, total = of_position_both(grad * normalised, grad)
            grad_x = grad - normalised * (along / count) - total / count
        else:
            grad_x = grad - normalised * (of_position(grad * normalised) / count)
        store_inside(start(grad_x_ptr, sample * channels, begin, inner, ALIGN) + made_at, grad_x * deviation, inside)
    at = tl.program_id(0).to(tl.int64) * channels + channel
    if for_weight_ptr is not None:
        store_inside(for_weight_ptr + at, tl.sum(for_weight, 1, keep_dims=True), there)
    if for_bias_ptr is not None:
        store_inside(for_bias_ptr + at, tl.sum(for_bias, 1, keep_dims=True), there)


@triton.jit
def _add(pointers, found, there, is_first):
    """Adds what groups found to a program's row of partial sums, which its first tile begins."""
    exists = is_first == 0
    if there is not None:
        exists = there & exists
    store_inside(pointers, tl.load(pointers, mask=exists, other=0.0) + tl.sum(found, 1, keep_dims=True), there)


@triton.jit(do_not_specialize=SIZES)
def backward_chunks(
    grad_ptr, x_ptr, residual_ptr, weight_ptr, bias_ptr, statistics_ptr, grad_x_ptr, grad_residual_ptr,
    for_weight_ptr, for_bias_ptr, a: tl.float64, b: tl.float64, added: tl.float64, numbers, tiles, rows, channels,
    inner, grad_sample, grad_channel, x_sample, x_channel, residual_sample, residual_channel, D1: tl.constexpr,
    MASKS: tl.constexpr, CENTRED: tl.constexpr, FULL: tl.constexpr, EVEN: tl.constexpr, DENSE: tl.constexpr,
    WIDE: tl.constexpr, ALIGN: tl.constexpr, STAGES: tl.constexpr, STEPS: tl.constexpr, GROUPS: tl.constexpr,
    LANES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Of tiles whose channels are read in chunks: for the sums over a position, then for the gradients."""
    FAST: tl.constexpr = is_fast(x_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype)
    count = tl.full((), channels, COMPUTE)
    program = tl.program_id(0)
    for first in tl.range(program * GROUPS, numbers, tl.num_programs(0) * GROUPS):
        group, sample, begin, position = tile_of(first, tiles, GROUPS, WIDTH)
        row, exists = sample * inner + position, None
        if not EVEN:
            exists = (group < numbers) & (position < aligned(inner, ALIGN))
        grad_start = start(grad_ptr, sample, begin, grad_sample, ALIGN)
        x_start = start(x_ptr, sample, begin, x_sample, ALIGN)
        residual_start = start(residual_ptr, sample, begin, residual_sample, ALIGN)
        along = tl.zeros((LANES, GROUPS, 1, WIDTH), COMPUTE)
        total = along
        for chunk in tl.range(0, channels, STEPS * LANES, num_stages=STAGES):
            channel = channels_from(chunk, STEPS, LANES)
            there = existing(channel, channels, FULL)
            weight = weight_of(weight_ptr, channel, there, added, COMPUTE)
            bias = None if D1 is None else load_given(bias_ptr, channel, there)
            grad, normalised, _ = _sloped(
                grad_start, x_start, residual_start,
                offsets(channel, inner, grad_channel, DENSE, WIDE, ALIGN, WIDTH),
                offsets(channel, inner, x_channel, DENSE, WIDE, ALIGN, WIDTH),
                offsets(channel, inner, residual_channel, DENSE, WIDE, ALIGN, WIDTH), weight, bias,
                statistics_ptr, row, rows, both(there, exists), exists, a, b, D1, MASKS, CENTRED, FAST, COMPUTE,
            )  # fmt: skip
            if weight is not None:
                grad *= weight
            along += tl.sum(grad * normalised, 2, keep_dims=True)
            if CENTRED:
                total += tl.sum(grad, 2, keep_dims=True)
        if CENTRED:
            mean_along, mean = of_position_both(along, total)
        else:
            mean_along, mean = of_position(along), tl.zeros((1, GROUPS, 1, WIDTH), COMPUTE)
        mean_along /= count
        mean /= count
        # What another thread of the program added to a partial sum may be this thread's to read.
        tl.debug_barrier()
        for chunk in tl.range(0, channels, STEPS * LANES, num_stages=STAGES):
            channel = channels_from(chunk, STEPS, LANES)
            there = existing(channel, channels, FULL)
            inside = both(there, exists)
            weight = weight_of(weight_ptr, channel, there, added, COMPUTE)
            bias = None if D1 is None else load_given(bias_ptr, channel, there)
            grad, normalised, deviation = _sloped(
                grad_start, x_start, residual_start,
                offsets(channel, inner, grad_channel, DENSE, WIDE, ALIGN, WIDTH),
                offsets(channel, inner, x_channel, DENSE, WIDE, ALIGN, WIDTH),
                offsets(channel, inner, residual_channel, DENSE, WIDE, ALIGN, WIDTH), weight, bias,
                statistics_ptr, row, rows, inside, exists, a, b, D1, MASKS, CENTRED, FAST, COMPUTE,
            )  # fmt: skip
            made_at = offsets(channel, inner, inner, True, WIDE, ALIGN, WIDTH)
            if grad_residual_ptr is not None:
                store_inside(start(grad_residual_ptr, sample * channels, begin, inner, ALIGN) + made_at, grad, inside)
            if for_weight_ptr is not None or for_bias_ptr is not None:
                of_weight, of_bias = _of_channel(for_weight_ptr, for_bias_ptr, grad, normalised)
                at = program.to(tl.int64) * channels + channel
                if for_weight_ptr is not None:
                    _add(for_weight_ptr + at, of_weight, there, first == program * GROUPS)
                if for_bias_ptr is not None:
                    _add(for_bias_ptr + at, of_bias, there, first == program * GROUPS)
            if weight is not None:
                grad *= weight
            grad_x = (grad - normalised * mean_along - mean) * deviation
            store_inside(start(grad_x_ptr, sample * channels, begin, inner, ALIGN) + made_at, grad_x, inside)
