"""Layer and rms norm over channels that lie apart, in tiles of channels and adjacent positions.

A tile has four dimensions, [STEPS, GROUPS, LANES, WIDTH]: WIDTH adjacent positions of each of GROUPS groups, of which a
program goes over every n-th GROUPS, of n programs; a group lies in one sample. In memory a tile is lines, [STEPS *
GROUPS * LANES, WIDTH]: Triton gives neighbouring threads neighbouring lines, and of more dimensions each version of it
takes another one first. So LANES channels are those of one warp, or of few, and a thread has STEPS vectors, or some
times as many: the fewer warps share a position, the less they have to exchange.

All channels of a tile in registers are read once: the mean first, then what remains of it together with the squares, as
`normalization_kernels` does. Of more channels than registers hold a program reads chunks, twice, the second time from
the cache.

FULL says that STEPS * LANES channels, or whole chunks of as many, are all channels, EVEN that whole tiles are all
positions, DENSE that channels lie one behind the other in every operand, WIDE that offsets within a sample may need 64
bits. Distances between samples and channels, and the number of positions, are multiples of ALIGN.
"""

import triton
import triton.language as tl

from .math import compute_type, is_fast
from .normalization_formulas import add_both, inverse_deviation, keep, load_weight, result
from .reducing_tiles import aligned
from .tiles import load_inside, store_inside

SIZES = (
    "numbers", "tiles", "rows", "channels", "inner", "grad_sample", "grad_channel", "x_sample", "x_channel",
    "residual_sample", "residual_channel",
)  # fmt: skip
"""Of which ALIGN says all that the compiler has to know."""


@triton.jit
def of_position(x):
    """The sums over a tile's channels, over those of one thread first."""
    return tl.sum(tl.sum(x, 0, keep_dims=True), 2, keep_dims=True)


@triton.jit
def of_position_both(x, y):
    """The sums of both, with one exchange between the threads."""
    x, y = tl.reduce((x, y), 0, add_both, keep_dims=True)
    return tl.reduce((x, y), 2, add_both, keep_dims=True)


@triton.jit
def lines(STEPS: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr):
    """The channels and groups of a tile's lines, [STEPS * GROUPS * LANES, 1]."""
    line = tl.arange(0, STEPS * GROUPS * LANES)[:, None]
    return line // (GROUPS * LANES) * LANES + line % LANES, line // LANES % GROUPS


@triton.jit
def dimensions(STEPS: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr):
    """The channels of a tile, [STEPS, 1, LANES, 1], and its groups, [1, GROUPS, 1, 1]."""
    step, lane = tl.arange(0, STEPS)[:, None, None, None], tl.arange(0, LANES)[None, None, :, None]
    return step * LANES + lane, tl.arange(0, GROUPS)[None, :, None, None]


@triton.jit
def located(group, tiles, WIDE: tl.constexpr, WIDTH: tl.constexpr):
    """The groups' samples and first positions."""
    number = (group % tiles).to(tl.int64) if WIDE else group % tiles
    return (group // tiles).to(tl.int64), number * WIDTH


@triton.jit
def reached(group, numbers, position, inner, EVEN: tl.constexpr, ALIGN: tl.constexpr):
    """Which of the groups' positions exist; None if all of them do."""
    exists = None if EVEN else (group < numbers) & (position < aligned(inner, ALIGN))
    return exists


@triton.jit
def existing(index, size, WHOLE: tl.constexpr):
    """Which of the channels exist; None if all of them do."""
    exists = None if WHOLE else index < size
    return exists


@triton.jit
def both(there, exists):
    """Where both masks hold, each None if it holds everywhere."""
    inside = exists
    if there is not None:
        inside = there if exists is None else there & exists
    return inside


@triton.jit
def offsets(line, inner, channel_stride, DENSE: tl.constexpr, WIDE: tl.constexpr, ALIGN: tl.constexpr,
            WIDTH: tl.constexpr):  # fmt: skip
    """How far a tile's elements lie from the first channel's first. DENSE operands have one offset for all of them,
    whose registers are many."""
    stride = aligned(inner if DENSE else channel_stride, ALIGN)
    if WIDE:
        line = line.to(tl.int64)
    return line * stride + tl.arange(0, WIDTH)[None, :]


@triton.jit
def start(pointer, sample, begin, sample_stride, ALIGN: tl.constexpr):
    """Where the groups of a tile begin; None of an operand that is missing."""
    at = pointer
    if pointer is not None:
        at = pointer + sample * aligned(sample_stride, ALIGN) + begin
    return at


@triton.jit
def load_given(pointer, offset, inside):
    """What lies there; None of an operand that is missing."""
    given = pointer
    if pointer is not None:
        given = load_inside(pointer + offset, inside)
    return given


@triton.jit
def load_tile(pointer, offset, inside, STEPS: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr,
              WIDTH: tl.constexpr):  # fmt: skip
    """A tile that lies there; None of an operand that is missing."""
    tile = load_given(pointer, offset, inside)
    if pointer is not None:
        tile = tl.reshape(tile, (STEPS, GROUPS, LANES, WIDTH))
    return tile


@triton.jit
def store_tile(pointer, offset, tile, inside):
    store_inside(pointer + offset, tl.reshape(tile, offset.shape), inside)


@triton.jit
def weight_of(weight_ptr, channel, there, offset, COMPUTE: tl.constexpr):
    weight = weight_ptr
    if weight_ptr is not None:
        weight = load_weight(weight_ptr + channel, there, offset, COMPUTE)
    return weight


@triton.jit
def spread(of_channel, STEPS: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr):
    """For all positions, before the loop over tiles, which would otherwise hand it from thread to thread each time."""
    spread = of_channel
    if of_channel is not None:
        spread = tl.broadcast_to(of_channel, (STEPS, GROUPS, LANES, WIDTH))
    return spread


@triton.jit(do_not_specialize=SIZES)
def forward(
    x_ptr, residual_ptr, weight_ptr, bias_ptr, y_ptr, statistics_ptr, a: tl.float64, b: tl.float64, added: tl.float64,
    eps: tl.float64, numbers, tiles, rows, channels, inner, x_sample, x_channel, residual_sample, residual_channel,
    VALUE: tl.constexpr, CENTRED: tl.constexpr, FULL: tl.constexpr, EVEN: tl.constexpr, DENSE: tl.constexpr,
    WIDE: tl.constexpr, ALIGN: tl.constexpr, STAGES: tl.constexpr, STEPS: tl.constexpr, GROUPS: tl.constexpr,
    LANES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Of tiles of all channels. `numbers` is how many groups there are, `tiles` how many a sample has."""
    FAST: tl.constexpr = is_fast(x_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype)
    line, line_group = lines(STEPS, GROUPS, LANES)
    channel, tile_group = dimensions(STEPS, GROUPS, LANES)
    line_there = existing(line, channels, FULL)
    there = existing(channel, channels, FULL)
    weight = spread(weight_of(weight_ptr, channel, there, added, COMPUTE), STEPS, GROUPS, LANES, WIDTH)
    bias = spread(load_given(bias_ptr, channel, there), STEPS, GROUPS, LANES, WIDTH)
    x_at = offsets(line, inner, x_channel, DENSE, WIDE, ALIGN, WIDTH)
    residual_at = offsets(line, inner, residual_channel, DENSE, WIDE, ALIGN, WIDTH)
    y_at = offsets(line, inner, inner, True, WIDE, ALIGN, WIDTH)
    count = tl.full((), channels, COMPUTE)
    for first in tl.range(tl.program_id(0) * GROUPS, numbers, tl.num_programs(0) * GROUPS, num_stages=STAGES):
        sample, begin = located(first + tile_group, tiles, WIDE, WIDTH)
        position = begin + tl.arange(0, WIDTH)[None, None, None, :]
        row = sample * inner + position
        exists = reached(first + tile_group, numbers, position, inner, EVEN, ALIGN)
        sample, begin = located(first + line_group, tiles, WIDE, WIDTH)
        position = begin + tl.arange(0, WIDTH)[None, :]
        line_exists = reached(first + line_group, numbers, position, inner, EVEN, ALIGN)
        inside = both(line_there, line_exists)
        x_start = start(x_ptr, sample, begin, x_sample, ALIGN)
        x = load_tile(x_start, x_at, inside, STEPS, GROUPS, LANES, WIDTH).to(COMPUTE)
        residual_start = start(residual_ptr, sample, begin, residual_sample, ALIGN)
        residual = load_tile(residual_start, residual_at, inside, STEPS, GROUPS, LANES, WIDTH)
        mean = tl.zeros((1, GROUPS, 1, WIDTH), COMPUTE)
        mean_low = mean
        if CENTRED:
            mean = of_position(x) / count
            x -= mean
            if there is not None:
                x = tl.where(there, x, 0.0)
            mean_low, square = of_position_both(x, x * x)
            mean_low /= count
            square = square / count - mean_low * mean_low
        else:
            square = of_position(x * x) / count
        deviation = inverse_deviation(square, tl.full((), eps, COMPUTE))
        keep(statistics_ptr, mean, mean_low, deviation, row, rows, exists, CENTRED)
        y = result(x * deviation - mean_low * deviation, weight, bias, residual, a, b, VALUE, 0, FAST)
        store_tile(start(y_ptr, sample * channels, begin, inner, ALIGN), y_at, y, inside)


@triton.jit
def _first_mean(
    x_ptr, line, line_exists, channels, inner, x_channel, FULL: tl.constexpr, DENSE: tl.constexpr, WIDE: tl.constexpr,
    ALIGN: tl.constexpr, STEPS: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr,
    COMPUTE: tl.constexpr,
):  # fmt: skip
    """The positions' means over the first chunk."""
    inside = both(existing(line, channels, FULL), line_exists)
    at = offsets(line, inner, x_channel, DENSE, WIDE, ALIGN, WIDTH)
    x = load_tile(x_ptr, at, inside, STEPS, GROUPS, LANES, WIDTH)
    return of_position(x.to(COMPUTE)) / tl.minimum(channels, STEPS * LANES)


@triton.jit
def _moments(
    x_ptr, line, channel, line_exists, channels, inner, x_channel, shift, CENTRED: tl.constexpr, FULL: tl.constexpr,
    DENSE: tl.constexpr, WIDE: tl.constexpr, ALIGN: tl.constexpr, STAGES: tl.constexpr, STEPS: tl.constexpr,
    GROUPS: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """How far the positions' means are from `shift`, and their mean squares about the means; about 0 unless CENTRED."""
    total = tl.zeros((1, GROUPS, LANES, WIDTH), COMPUTE)
    squares = total
    for chunk in tl.range(0, channels, STEPS * LANES, num_stages=STAGES):
        there = existing(chunk + channel, channels, FULL)
        inside = both(existing(chunk + line, channels, FULL), line_exists)
        at = offsets(chunk + line, inner, x_channel, DENSE, WIDE, ALIGN, WIDTH)
        x = load_tile(x_ptr, at, inside, STEPS, GROUPS, LANES, WIDTH).to(COMPUTE)
        if CENTRED:
            x -= shift
            if there is not None:
                x = tl.where(there, x, 0.0)
            total += tl.sum(x, 0, keep_dims=True)
        squares += tl.sum(x * x, 0, keep_dims=True)
    count = tl.full((), channels, COMPUTE)
    if CENTRED:
        mean_low, square = of_position_both(total, squares)
        mean_low /= count
        return mean_low, square / count - mean_low * mean_low
    else:
        return shift, of_position(squares) / count


@triton.jit(do_not_specialize=SIZES)
def forward_chunks(
    x_ptr, residual_ptr, weight_ptr, bias_ptr, y_ptr, statistics_ptr, a: tl.float64, b: tl.float64, added: tl.float64,
    eps: tl.float64, numbers, tiles, rows, channels, inner, x_sample, x_channel, residual_sample, residual_channel,
    VALUE: tl.constexpr, CENTRED: tl.constexpr, FULL: tl.constexpr, EVEN: tl.constexpr, DENSE: tl.constexpr,
    WIDE: tl.constexpr, ALIGN: tl.constexpr, STAGES: tl.constexpr, STEPS: tl.constexpr, GROUPS: tl.constexpr,
    LANES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Of tiles whose channels are read in chunks. Squares are taken about the mean of the first chunk; where that turns
    out to be far from the whole mean, so that digits were lost, they are taken again about what was found."""
    FAST: tl.constexpr = is_fast(x_ptr.dtype)
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype)
    line, line_group = lines(STEPS, GROUPS, LANES)
    channel, tile_group = dimensions(STEPS, GROUPS, LANES)
    for first in tl.range(tl.program_id(0) * GROUPS, numbers, tl.num_programs(0) * GROUPS):
        sample, begin = located(first + tile_group, tiles, WIDE, WIDTH)
        position = begin + tl.arange(0, WIDTH)[None, None, None, :]
        row = sample * inner + position
        exists = reached(first + tile_group, numbers, position, inner, EVEN, ALIGN)
        sample, begin = located(first + line_group, tiles, WIDE, WIDTH)
        position = begin + tl.arange(0, WIDTH)[None, :]
        line_exists = reached(first + line_group, numbers, position, inner, EVEN, ALIGN)
        x_start = start(x_ptr, sample, begin, x_sample, ALIGN)
        residual_start = start(residual_ptr, sample, begin, residual_sample, ALIGN)
        y_start = start(y_ptr, sample * channels, begin, inner, ALIGN)
        mean = tl.zeros((1, GROUPS, 1, WIDTH), COMPUTE)
        if CENTRED:
            mean = _first_mean(
                x_start, line, line_exists, channels, inner, x_channel, FULL, DENSE, WIDE, ALIGN, STEPS, GROUPS, LANES,
                WIDTH, COMPUTE,
            )  # fmt: skip
        mean_low, square = _moments(
            x_start, line, channel, line_exists, channels, inner, x_channel, mean, CENTRED, FULL, DENSE, WIDE, ALIGN,
            STAGES, STEPS, GROUPS, LANES, WIDTH, COMPUTE,
        )  # fmt: skip
        if CENTRED:
            is_far = tl.max(tl.where(mean_low * mean_low > square, 1, 0))
            if is_far > 0:
                mean += mean_low
                mean_low, square = _moments(
                    x_start, line, channel, line_exists, channels, inner, x_channel, mean, CENTRED, FULL, DENSE, WIDE,
                    ALIGN, STAGES, STEPS, GROUPS, LANES, WIDTH, COMPUTE,
                )  # fmt: skip
        deviation = inverse_deviation(square, tl.full((), eps, COMPUTE))
        for chunk in tl.range(0, channels, STEPS * LANES, num_stages=STAGES):
            there = existing(chunk + channel, channels, FULL)
            inside = both(existing(chunk + line, channels, FULL), line_exists)
            weight = weight_of(weight_ptr, chunk + channel, there, added, COMPUTE)
            bias = load_given(bias_ptr, chunk + channel, there)
            x_at = offsets(chunk + line, inner, x_channel, DENSE, WIDE, ALIGN, WIDTH)
            residual_at = offsets(chunk + line, inner, residual_channel, DENSE, WIDE, ALIGN, WIDTH)
            x = load_tile(x_start, x_at, inside, STEPS, GROUPS, LANES, WIDTH).to(COMPUTE)
            residual = load_tile(residual_start, residual_at, inside, STEPS, GROUPS, LANES, WIDTH)
            y = result(((x - mean) - mean_low) * deviation, weight, bias, residual, a, b, VALUE, 0, FAST)
            store_tile(y_start, offsets(chunk + line, inner, inner, True, WIDE, ALIGN, WIDTH), y, inside)
        keep(statistics_ptr, mean, mean_low, deviation, row, rows, exists, CENTRED)
