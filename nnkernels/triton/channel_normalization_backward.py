"""The gradients of layer and rms norm over channels, from what was normalised and its positions' statistics.

Tiles and programs are those of `channel_normalization_kernels`. A program adds up the parameters' gradients over its
tiles and leaves one row of partial sums.
"""

import triton
import triton.language as tl

from .channel_normalization_kernels import (
    SIZES,
    both,
    dimensions,
    existing,
    lines,
    load_given,
    load_tile,
    located,
    of_position,
    of_position_both,
    offsets,
    reached,
    spread,
    start,
    store_tile,
    weight_of,
)
from .math import compute_type, is_fast
from .normalization_formulas import add_both, kept, normalise_by, slope_of
from .tiles import store_inside


@triton.jit
def _sloped(
    grad_ptr, x_ptr, residual_ptr, grad_at, x_at, residual_at, weight, bias, statistics_ptr, row, rows, inside, there,
    exists, a, b, D1: tl.constexpr, MASKS: tl.constexpr, CENTRED: tl.constexpr, FAST: tl.constexpr,
    COMPUTE: tl.constexpr, STEPS: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Of a tile, the gradient of the activation's argument, 0 where nothing is, what was normalised, 1 / deviation."""
    # Before the tile, whose layout is otherwise that of the statistics.
    mean, deviation = kept(statistics_ptr, row, rows, exists, CENTRED)
    grad = load_tile(grad_ptr, grad_at, inside, STEPS, GROUPS, LANES, WIDTH).to(COMPUTE)
    x = load_tile(x_ptr, x_at, inside, STEPS, GROUPS, LANES, WIDTH).to(COMPUTE)
    residual = load_tile(residual_ptr, residual_at, inside, STEPS, GROUPS, LANES, WIDTH)
    normalised, deviation = normalise_by(x, mean, deviation, CENTRED, COMPUTE)
    grad, _ = slope_of(grad, normalised, weight, bias, residual, a, b, 0, None, D1, MASKS, FAST, COMPUTE)
    inside = both(there, exists)
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
    line, line_group = lines(STEPS, GROUPS, LANES)
    channel, tile_group = dimensions(STEPS, GROUPS, LANES)
    line_there = existing(line, channels, FULL)
    there = existing(channel, channels, FULL)
    weight = spread(weight_of(weight_ptr, channel, there, added, COMPUTE), STEPS, GROUPS, LANES, WIDTH)
    bias = None if D1 is None else spread(load_given(bias_ptr, channel, there), STEPS, GROUPS, LANES, WIDTH)
    grad_at = offsets(line, inner, grad_channel, DENSE, WIDE, ALIGN, WIDTH)
    x_at = offsets(line, inner, x_channel, DENSE, WIDE, ALIGN, WIDTH)
    residual_at = offsets(line, inner, residual_channel, DENSE, WIDE, ALIGN, WIDTH)
    made_at = offsets(line, inner, inner, True, WIDE, ALIGN, WIDTH)
    count = tl.full((), channels, COMPUTE)
    for_weight = tl.zeros((STEPS, GROUPS, LANES, 1), COMPUTE)
    for_bias = for_weight
    for first in tl.range(tl.program_id(0) * GROUPS, numbers, tl.num_programs(0) * GROUPS, num_stages=STAGES):
        sample, begin = located(first + tile_group, tiles, WIDE, WIDTH)
        position = begin + tl.arange(0, WIDTH)[None, None, None, :]
        row = sample * inner + position
        exists = reached(first + tile_group, numbers, position, inner, EVEN, ALIGN)
        sample, begin = located(first + line_group, tiles, WIDE, WIDTH)
        position = begin + tl.arange(0, WIDTH)[None, :]
        line_exists = reached(first + line_group, numbers, position, inner, EVEN, ALIGN)
        inside = both(line_there, line_exists)
        grad, normalised, deviation = _sloped(
            start(grad_ptr, sample, begin, grad_sample, ALIGN), start(x_ptr, sample, begin, x_sample, ALIGN),
            start(residual_ptr, sample, begin, residual_sample, ALIGN), grad_at, x_at, residual_at, weight, bias,
            statistics_ptr, row, rows, inside, there, exists, a, b, D1, MASKS, CENTRED, FAST, COMPUTE, STEPS, GROUPS,
            LANES, WIDTH,
        )  # fmt: skip
        if grad_residual_ptr is not None:
            store_tile(start(grad_residual_ptr, sample * channels, begin, inner, ALIGN), made_at, grad, inside)
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
        store_tile(start(grad_x_ptr, sample * channels, begin, inner, ALIGN), made_at, grad_x * deviation, inside)
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
    line, line_group = lines(STEPS, GROUPS, LANES)
    channel, tile_group = dimensions(STEPS, GROUPS, LANES)
    for first in tl.range(program * GROUPS, numbers, tl.num_programs(0) * GROUPS):
        sample, begin = located(first + tile_group, tiles, WIDE, WIDTH)
        position = begin + tl.arange(0, WIDTH)[None, None, None, :]
        row = sample * inner + position
        exists = reached(first + tile_group, numbers, position, inner, EVEN, ALIGN)
        sample, begin = located(first + line_group, tiles, WIDE, WIDTH)
        position = begin + tl.arange(0, WIDTH)[None, :]
        line_exists = reached(first + line_group, numbers, position, inner, EVEN, ALIGN)
        grad_start = start(grad_ptr, sample, begin, grad_sample, ALIGN)
        x_start = start(x_ptr, sample, begin, x_sample, ALIGN)
        residual_start = start(residual_ptr, sample, begin, residual_sample, ALIGN)
        along = tl.zeros((1, GROUPS, LANES, WIDTH), COMPUTE)
        total = along
        for chunk in tl.range(0, channels, STEPS * LANES, num_stages=STAGES):
            there = existing(chunk + channel, channels, FULL)
            inside = both(existing(chunk + line, channels, FULL), line_exists)
            weight = weight_of(weight_ptr, chunk + channel, there, added, COMPUTE)
            bias = None if D1 is None else load_given(bias_ptr, chunk + channel, there)
            grad, normalised, _ = _sloped(
                grad_start, x_start, residual_start,
                offsets(chunk + line, inner, grad_channel, DENSE, WIDE, ALIGN, WIDTH),
                offsets(chunk + line, inner, x_channel, DENSE, WIDE, ALIGN, WIDTH),
                offsets(chunk + line, inner, residual_channel, DENSE, WIDE, ALIGN, WIDTH), weight, bias,
                statistics_ptr, row, rows, inside, there, exists, a, b, D1, MASKS, CENTRED, FAST, COMPUTE, STEPS,
                GROUPS, LANES, WIDTH,
            )  # fmt: skip
            if weight is not None:
                grad *= weight
            along += tl.sum(grad * normalised, 0, keep_dims=True)
            if CENTRED:
                total += tl.sum(grad, 0, keep_dims=True)
        if CENTRED:
            mean_along, mean = of_position_both(along, total)
        else:
            mean_along, mean = of_position(along), tl.zeros((1, GROUPS, 1, WIDTH), COMPUTE)
        mean_along /= count
        mean /= count
        # What another thread of the program added to a partial sum may be this thread's to read.
        tl.debug_barrier()
        for chunk in tl.range(0, channels, STEPS * LANES, num_stages=STAGES):
            there = existing(chunk + channel, channels, FULL)
            inside = both(existing(chunk + line, channels, FULL), line_exists)
            weight = weight_of(weight_ptr, chunk + channel, there, added, COMPUTE)
            bias = None if D1 is None else load_given(bias_ptr, chunk + channel, there)
            grad, normalised, deviation = _sloped(
                grad_start, x_start, residual_start,
                offsets(chunk + line, inner, grad_channel, DENSE, WIDE, ALIGN, WIDTH),
                offsets(chunk + line, inner, x_channel, DENSE, WIDE, ALIGN, WIDTH),
                offsets(chunk + line, inner, residual_channel, DENSE, WIDE, ALIGN, WIDTH), weight, bias,
                statistics_ptr, row, rows, inside, there, exists, a, b, D1, MASKS, CENTRED, FAST, COMPUTE, STEPS,
                GROUPS, LANES, WIDTH,
            )  # fmt: skip
            made_at = offsets(chunk + line, inner, inner, True, WIDE, ALIGN, WIDTH)
            if grad_residual_ptr is not None:
                store_tile(start(grad_residual_ptr, sample * channels, begin, inner, ALIGN), made_at, grad, inside)
            if for_weight_ptr is not None or for_bias_ptr is not None:
                of_weight, of_bias = _of_channel(for_weight_ptr, for_bias_ptr, grad, normalised)
                at = program.to(tl.int64) * channels + chunk + channel
                if for_weight_ptr is not None:
                    _add(for_weight_ptr + at, of_weight, there, first == program * GROUPS)
                if for_bias_ptr is not None:
                    _add(for_bias_ptr + at, of_bias, there, first == program * GROUPS)
            if weight is not None:
                grad *= weight
            grad_x = (grad - normalised * mean_along - mean) * deviation
            store_tile(start(grad_x_ptr, sample * channels, begin, inner, ALIGN), made_at, grad_x, inside)
