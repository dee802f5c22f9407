"""Normalisation of sets that one program works on alone: what it reads a second time is still in a cache, if not in
registers.

A program has a unit, a rectangle of `height` lines, `stride` apart, of `width` adjacent elements: the channels of one
group, a line each, or, channels last (COLS), some channels in all rows. ONE says that a unit is one set, not several
groups side by side. It goes over lines of TILES tiles, one after the other and then back. HELD says that there is one
tile, which stays in registers.

A sum of squares is taken about the mean of the first tile: see `batch_normalization_kernels`.
"""

import triton
import triton.language as tl

from .batch_normalization_kernels import move
from .math import compute_type, is_fast, rounded_quotient
from .reducing_tiles import aligned
from .tiles import load_inside, store_inside, times
from .waiting import is_last


@triton.jit
def _unit(units, height, width, stride, length, channels, COLS: tl.constexpr, ALIGN: tl.constexpr):
    """This program's sample and unit of the sample, the unit's first channel and element, and its width."""
    sample, unit = tl.program_id(0) // units, tl.program_id(0) % units
    first = sample.to(tl.int64) * aligned(length, ALIGN)
    if COLS:
        channel = aligned(unit * width, ALIGN)
        return sample, unit, channel, first + channel, aligned(tl.minimum(width, channels - channel), ALIGN)
    else:
        return sample, unit, unit * height, first + unit.to(tl.int64) * height * stride, aligned(width, ALIGN)


@triton.jit
def _tile(d, i, height, width, stride, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr):
    """Where tile `i` of line `d` lies in a unit, and which of its elements exist."""
    down = d * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    along = i * BLOCK_COLS + tl.arange(0, BLOCK_COLS)[None, :]
    return down.to(tl.int64) * stride + along, (down < height) & (along < width)


@triton.jit
def _channels(d, height, width, COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr):
    """The channels of line `d` of a unit, in a shape that broadcasts to a tile, and which of them exist."""
    if COLS:
        along = tl.arange(0, BLOCK_COLS)[None, :]
        return along, along < width
    else:
        down = d * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
        return down, down < height


@triton.jit
def _affine(weight_ptr, bias_ptr, channel, there, low, rstd, COMPUTE: tl.constexpr):
    """The weight, and the scale and shift of z = (x - center) scale + shift."""
    weight = tl.full(channel.shape, 1.0, COMPUTE)
    if weight_ptr is not None:
        weight = tl.load(weight_ptr + channel, mask=there, other=0.0).to(COMPUTE)
    scale = rstd * weight
    shift = -low * scale
    if bias_ptr is not None:
        shift += tl.load(bias_ptr + channel, mask=there, other=0.0).to(COMPUTE)
    return weight, scale, shift


@triton.jit
def _total(x, ONE: tl.constexpr):
    """Of a tile, or, unless ONE, of each of its columns.

    Here as elsewhere what belongs to a whole unit is a scalar, which has no layout for tiles to take over.
    """
    if ONE:
        return tl.sum(x)
    else:
        return tl.sum(x, 0, keep_dims=True)


@triton.jit
def _members(group, width, BLOCK_GROUPS: tl.constexpr, BLOCK_GROUP: tl.constexpr):
    """A unit's groups, [BLOCK_GROUPS, 1], the columns of each, [BLOCK_GROUPS, BLOCK_GROUP], and which exist."""
    groups = tl.arange(0, BLOCK_GROUPS)[:, None]
    of = tl.arange(0, BLOCK_GROUP)[None, :]
    members = groups * group + of
    return groups, groups * group < width, members, (of < group) & (members < width)


@triton.jit
def _of_columns(numbers_ptr, plane, group, width, BLOCK_COLS: tl.constexpr):
    """What the columns of a unit have from their groups: three numbers, `plane` apart."""
    along = tl.arange(0, BLOCK_COLS)[None, :]
    of = numbers_ptr + along // group
    first = tl.load(of, mask=along < width, other=0.0)
    second = tl.load(of + plane, mask=along < width, other=0.0)
    return first, second, tl.load(of + 2 * plane, mask=along < width, other=0.0)


@triton.jit(do_not_specialize=["sets", "units"])
def forward(
    x_ptr, residual_ptr, weight_ptr, bias_ptr, statistics_ptr, y_ptr, mean_ptr, var_ptr, columns_ptr,
    momentum: tl.float64, a: tl.float64, b: tl.float64, eps: tl.float64, sets, group, length, channels, units, height,
    width, stride, lines, VALUE: tl.constexpr, COLS: tl.constexpr, ONE: tl.constexpr, HELD: tl.constexpr,
    WHOLE: tl.constexpr, ALIGN: tl.constexpr, TILES: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr, BLOCK_GROUP: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """y = f((x - mean) rstd weight + bias + residual), and the statistics; moves the running ones."""
    FAST: tl.constexpr = is_fast(x_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype)
    stride = aligned(stride, ALIGN)
    sample, unit, channel0, first, width = _unit(units, height, width, stride, length, channels, COLS, ALIGN)
    at, mask = _tile(0, 0, height, width, stride, BLOCK_ROWS, BLOCK_COLS)
    held = load_inside(x_ptr + first + at, None if WHOLE else mask)
    in_tile = tl.minimum(height, BLOCK_ROWS)
    if ONE:
        in_tile *= tl.minimum(width, BLOCK_COLS)
    shift = rounded_quotient(_total(held.to(COMPUTE), ONE), in_tile)
    total = tl.zeros([BLOCK_ROWS, BLOCK_COLS], COMPUTE)
    squares = tl.zeros([BLOCK_ROWS, BLOCK_COLS], COMPUTE)
    for d in tl.range(0, lines, num_stages=STAGES):
        for i in tl.static_range(TILES):
            at, mask = _tile(d, i, height, width, stride, BLOCK_ROWS, BLOCK_COLS)
            x = held if HELD else load_inside(x_ptr + first + at, None if WHOLE else mask)
            off = x.to(COMPUTE) - shift
            if not WHOLE:
                off = tl.where(mask, off, 0.0)
            total += off
            squares += off * off
    total, squares = _total(total, ONE), _total(squares, ONE)
    count = tl.full((), 1, COMPUTE) * height * (width if ONE else group)
    if ONE:
        away = total / count
        of, exists = sample * units + unit, True
        center = shift + away
        low = (shift - center) + away
    else:  # from columns to groups, through memory
        groups, exists, members, is_member = _members(group, width, BLOCK_GROUPS, BLOCK_GROUP)
        along = tl.arange(0, BLOCK_COLS)[None, :]
        plane = tl.num_programs(0).to(tl.int64) * BLOCK_COLS
        columns = columns_ptr + tl.program_id(0).to(tl.int64) * BLOCK_COLS
        tl.store(columns + along, shift)
        tl.store(columns + plane + along, total)
        tl.store(columns + 2 * plane + along, squares)
        tl.debug_barrier()
        pilot = tl.load(columns + groups * group, mask=exists, other=0.0)
        moved = tl.load(columns + members, mask=is_member, other=0.0) - pilot
        moved = tl.where(is_member, moved, 0.0)
        total = tl.load(columns + plane + members, mask=is_member, other=0.0)
        squares = tl.load(columns + 2 * plane + members, mask=is_member, other=0.0)
        # About the first member's shift: sums of x - shift + moved, and of its square.
        squares = tl.sum(squares + moved * (2 * total + height * moved), 1, keep_dims=True)
        away = tl.sum(total + height * moved, 1, keep_dims=True) / count
        of = (sample * channels + channel0) // group + groups
        center = pilot + away
        low = (pilot - center) + away
    variance = squares / count - away * away
    variance = tl.where(variance < 0, 0.0, variance)
    rstd = 1 / tl.sqrt(variance + tl.full((), eps, COMPUTE))
    if mean_ptr is not None:
        move(mean_ptr + of, center.to(tl.float64) + low, momentum, exists)
        move(var_ptr + of, variance * (count / (count - 1)), momentum, exists)
    out = statistics_ptr + of
    tl.store(out, tl.zeros_like(center) + count, mask=exists)
    tl.store(out + sets, center, mask=exists)
    tl.store(out + 2 * sets, low, mask=exists)
    tl.store(out + 3 * sets, rstd, mask=exists)
    if not ONE:
        tl.debug_barrier()
        numbers = statistics_ptr + (sample * channels + channel0) // group + sets
        center, low, rstd = _of_columns(numbers, sets, group, width, BLOCK_COLS)
    a, b = tl.full((), a, COMPUTE), tl.full((), b, COMPUTE)
    for back in tl.range(0, lines, num_stages=STAGES):
        d = lines - 1 - back
        channel, there = _channels(d, height, width, COLS, BLOCK_ROWS, BLOCK_COLS)
        _weight, scale, offset = _affine(weight_ptr, bias_ptr, channel0 + channel, there, low, rstd, COMPUTE)
        for i in tl.static_range(TILES):
            at, mask = _tile(d, i, height, width, stride, BLOCK_ROWS, BLOCK_COLS)
            x = held if HELD else load_inside(x_ptr + first + at, None if WHOLE else mask)
            z = (x.to(COMPUTE) - center) * scale + offset
            if residual_ptr is not None:
                z += load_inside(residual_ptr + first + at, None if WHOLE else mask).to(COMPUTE)
            store_inside(y_ptr + first + at, VALUE(z, a, b, FAST), None if WHOLE else mask)


@triton.jit(do_not_specialize=["sets", "units", "samples"])
def backward(
    grad_ptr, x_ptr, residual_ptr, weight_ptr, bias_ptr, statistics_ptr, totals_ptr, sums_ptr, parameters_ptr,
    counts_ptr, grad_x_ptr, grad_residual_ptr, a: tl.float64, b: tl.float64, sets, group, length, channels, units,
    height, width, stride, lines, samples, D1: tl.constexpr, MASKS: tl.constexpr, COLS: tl.constexpr, ONE: tl.constexpr,
    HELD: tl.constexpr, WHOLE: tl.constexpr, ALIGN: tl.constexpr, TILES: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr, BLOCK_GROUPS: tl.constexpr, BLOCK_GROUP: tl.constexpr, STAGES: tl.constexpr,
    BLOCK_SAMPLES: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """grad_x = rstd (weight dz - (sum of weight dz + normal * sum of weight dz normal) / count), dz = grad f'(z).

    Also, for each channel, the sums of dz and of dz times the normalised value: of each sample in `sums`,
    [2, samples, channels], which the last program to come to a unit's channels adds up in `parameters`, [2, channels].
    """
    FAST: tl.constexpr = is_fast(x_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype)
    stride = aligned(stride, ALIGN)
    sample, unit, channel0, first, width = _unit(units, height, width, stride, length, channels, COLS, ALIGN)
    of = sample * units + unit if ONE else (sample * channels + channel0) // group
    numbers = statistics_ptr + of + sets
    if ONE:
        center, low, rstd = tl.load(numbers), tl.load(numbers + sets), tl.load(numbers + 2 * sets)
    else:
        center, low, rstd = _of_columns(numbers, sets, group, width, BLOCK_COLS)
    a, b = tl.full((), a, COMPUTE), tl.full((), b, COMPUTE)
    sums = sums_ptr + sample.to(tl.int64) * channels + channel0
    plane = samples.to(tl.int64) * channels
    for_mean, for_spread = tl.zeros((), COMPUTE), tl.zeros((), COMPUTE)
    total = tl.zeros([BLOCK_ROWS, BLOCK_COLS], COMPUTE)
    along = tl.zeros([BLOCK_ROWS, BLOCK_COLS], COMPUTE)
    if HELD:
        dz, away = total, along
    for d in tl.range(0, lines, num_stages=STAGES):
        channel, there = _channels(d, height, width, COLS, BLOCK_ROWS, BLOCK_COLS)
        weight, scale, offset = _affine(weight_ptr, bias_ptr, channel0 + channel, there, low, rstd, COMPUTE)
        if not COLS:
            total = tl.zeros([BLOCK_ROWS, BLOCK_COLS], COMPUTE)
            along = tl.zeros([BLOCK_ROWS, BLOCK_COLS], COMPUTE)
        for i in tl.static_range(TILES):
            at, mask = _tile(d, i, height, width, stride, BLOCK_ROWS, BLOCK_COLS)
            dz = load_inside(grad_ptr + first + at, None if WHOLE else mask).to(COMPUTE)
            away = load_inside(x_ptr + first + at, None if WHOLE else mask).to(COMPUTE) - center
            z = away * scale + offset
            if residual_ptr is not None:
                z += load_inside(residual_ptr + first + at, None if WHOLE else mask).to(COMPUTE)
            dz = times(dz, D1(z, a, b, FAST), MASKS)
            if not WHOLE:
                dz = tl.where(mask, dz, 0.0)
            total += dz
            along += dz * away
        if not COLS:
            of_channel = tl.sum(total, 1, keep_dims=True)
            along_channel = rstd * (tl.sum(along, 1, keep_dims=True) - low * of_channel)
            tl.store(sums + channel, of_channel, mask=there)
            tl.store(sums + plane + channel, along_channel, mask=there)
            for_mean += tl.sum(weight * of_channel)
            for_spread += tl.sum(weight * along_channel)
    if COLS:
        channel, there = _channels(0, height, width, COLS, BLOCK_ROWS, BLOCK_COLS)
        # Triton 3.6 needs a sum to be stored before it is used: else it converts its layout behind a use of that.
        of_channel = tl.sum(total, 0, keep_dims=True)
        tl.store(sums + channel, of_channel, mask=there)
        along_channel = rstd * (tl.sum(along, 0, keep_dims=True) - low * of_channel)
        tl.store(sums + plane + channel, along_channel, mask=there)
        if ONE:
            weight, _scale, _offset = _affine(weight_ptr, None, channel0 + channel, there, low, rstd, COMPUTE)
            for_mean, for_spread = tl.sum(weight * of_channel), tl.sum(weight * along_channel)
        else:  # from columns to groups and back, through memory
            groups, exists, members, is_member = _members(group, width, BLOCK_GROUPS, BLOCK_GROUP)
            tl.debug_barrier()
            of_groups = tl.load(sums + members, mask=is_member, other=0.0)
            along_groups = tl.load(sums + plane + members, mask=is_member, other=0.0)
            if weight_ptr is not None:
                weight = tl.load(weight_ptr + channel0 + members, mask=is_member, other=0.0).to(COMPUTE)
                of_groups *= weight
                along_groups *= weight
            tl.store(totals_ptr + of + groups, tl.sum(of_groups, 1, keep_dims=True), mask=exists)
            tl.store(totals_ptr + sets + of + groups, tl.sum(along_groups, 1, keep_dims=True), mask=exists)
            tl.debug_barrier()
            for_mean = tl.load(totals_ptr + of + channel // group, mask=there, other=0.0)
            for_spread = tl.load(totals_ptr + sets + of + channel // group, mask=there, other=0.0)
    factor = rstd / (tl.full((), 1, COMPUTE) * height * (width if ONE else group))
    slope = -factor * rstd * for_spread
    shift = -factor * for_mean - slope * low
    for back in tl.range(0, lines, num_stages=STAGES):
        d = lines - 1 - back
        channel, there = _channels(d, height, width, COLS, BLOCK_ROWS, BLOCK_COLS)
        _weight, scale, offset = _affine(weight_ptr, bias_ptr, channel0 + channel, there, low, rstd, COMPUTE)
        for i in tl.static_range(TILES):
            at, mask = _tile(d, i, height, width, stride, BLOCK_ROWS, BLOCK_COLS)
            if not HELD:
                dz = load_inside(grad_ptr + first + at, None if WHOLE else mask).to(COMPUTE)
                away = load_inside(x_ptr + first + at, None if WHOLE else mask).to(COMPUTE) - center
                z = away * scale + offset
                if residual_ptr is not None:
                    z += load_inside(residual_ptr + first + at, None if WHOLE else mask).to(COMPUTE)
                dz = times(dz, D1(z, a, b, FAST), MASKS)
            store_inside(grad_x_ptr + first + at, dz * scale + (away * slope + shift), None if WHOLE else mask)
            if grad_residual_ptr is not None:
                store_inside(grad_residual_ptr + first + at, dz, None if WHOLE else mask)
    if parameters_ptr is not None:
        last = is_last(counts_ptr + unit, samples)
        if last:
            _add_samples(
                sums_ptr + channel0, parameters_ptr + channel0, width if COLS else height, samples, channels, plane,
                BLOCK_SAMPLES, BLOCK_CHANNELS,
            )  # fmt: skip


@triton.jit
def _add_samples(
    sums_ptr, parameters_ptr, count, samples, channels, plane, BLOCK_SAMPLES: tl.constexpr, BLOCK_CHANNELS: tl.constexpr
):  # fmt: skip
    """The gradients of bias and weight of some channels, past the L1 cache: other programs have written the sums."""
    channel = tl.arange(0, BLOCK_CHANNELS)[None, :]
    total = tl.zeros([BLOCK_SAMPLES, BLOCK_CHANNELS], sums_ptr.dtype.element_ty)
    along = tl.zeros([BLOCK_SAMPLES, BLOCK_CHANNELS], sums_ptr.dtype.element_ty)
    for start in range(0, samples, BLOCK_SAMPLES):
        sample = start + tl.arange(0, BLOCK_SAMPLES)[:, None]
        there = (sample < samples) & (channel < count)
        at = sums_ptr + sample.to(tl.int64) * channels + channel
        total += tl.load(at, mask=there, other=0.0, cache_modifier=".cg")
        along += tl.load(at + plane, mask=there, other=0.0, cache_modifier=".cg")
    total, along = tl.sum(total, 0, keep_dims=True), tl.sum(along, 0, keep_dims=True)
    tl.store(parameters_ptr + channel, total.to(parameters_ptr.dtype.element_ty), mask=channel < count)
    tl.store(parameters_ptr + channels + channel, along.to(parameters_ptr.dtype.element_ty), mask=channel < count)
