"""Products whose tiles meet an activation before they reach memory.

A program stays and takes one tile of the result after the other: GROUP tiles below each other share their columns'
weights in the L2 cache. Operands come and results go by tensor descriptors, which Hopper's copy engine serves while the
programs compute; beyond an edge they read 0 and write nothing. The end of a tile is taken in PARTS, so that few numbers
besides the sums are alive. Sums are float32.
"""

import triton
import triton.language as tl

from .pooling import log2, wins


@triton.jit
def _place(tile, row_tiles, col_tiles, GROUP: tl.constexpr):
    """A tile's number downwards and to the right."""
    in_group = GROUP * col_tiles
    first = tile // in_group * GROUP
    height = tl.minimum(row_tiles - first, GROUP)
    return first + tile % in_group % height, tile % in_group // height


@triton.jit
def _parts(total, PARTS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """A tile's columns in PARTS tensors, a power of two."""
    if PARTS == 1:
        return (total,)
    else:
        halves = tl.split(tl.permute(tl.reshape(total, (ROWS, 2, COLS // 2)), (0, 2, 1)))
        if PARTS == 2:
            return halves
        else:
            return _parts(halves[0], PARTS // 2, ROWS, COLS // 2) + _parts(halves[1], PARTS // 2, ROWS, COLS // 2)


@triton.jit
def _matrix(ptr, rows, cols, stride, ROWS: tl.constexpr, COLS: tl.constexpr):
    return tl.make_tensor_descriptor(ptr, [rows, cols], [stride, 1], [ROWS, COLS])


@triton.jit
def _product(x, weight, row, col, depth, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr):
    """The tile of x W^T that begins at `row` and `col`."""
    total = tl.zeros((ROWS, COLS), tl.float32)
    for k in range(0, depth, DEPTH):
        total = tl.dot(x.load([row, k]), weight.load([col, k]).T, total)
    return total


@triton.jit
def _biased(total, bias_ptr, col, cols, COLS: tl.constexpr):
    if bias_ptr is not None:
        at = col + tl.arange(0, COLS)
        total += tl.load(bias_ptr + at, mask=at < cols, other=0.0).to(tl.float32)[None, :]
    return total


@triton.jit
def forward(
    x_ptr, weight_ptr, bias_ptr, y_ptr, z_ptr, a: tl.float64, b: tl.float64, rows, cols, depth,
    VALUE: tl.constexpr, KEEPS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr,
    GROUP: tl.constexpr, PARTS: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    """y = f(x W^T + b), and z = x W^T + b if KEEPS."""
    DTYPE: tl.constexpr = y_ptr.dtype.element_ty
    PART: tl.constexpr = COLS // PARTS
    x, weight = _matrix(x_ptr, rows, depth, depth, ROWS, DEPTH), _matrix(weight_ptr, cols, depth, depth, COLS, DEPTH)
    y = _matrix(y_ptr, rows, cols, cols, ROWS, PART)
    if KEEPS:
        z = _matrix(z_ptr, rows, cols, cols, ROWS, PART)
    a, b = tl.full((), a, tl.float32), tl.full((), b, tl.float32)
    row_tiles, col_tiles = tl.cdiv(rows, ROWS), tl.cdiv(cols, COLS)
    for tile in tl.range(tl.program_id(0), row_tiles * col_tiles, tl.num_programs(0), flatten=FLAT):
        down, right = _place(tile, row_tiles, col_tiles, GROUP)
        row, col = down * ROWS, right * COLS
        parts = _parts(_product(x, weight, row, col, depth, ROWS, COLS, DEPTH), PARTS, ROWS, COLS)
        for part in tl.static_range(PARTS):
            at = col + part * PART
            sums = _biased(parts[part], bias_ptr, at, cols, PART)
            if KEEPS:
                z.store([row, at], sums.to(DTYPE))
            y.store([row, at], VALUE(sums, a, b, True).to(DTYPE))


@triton.jit
def maxout(
    x_ptr, weight_ptr, bias_ptr, y_ptr, winners_ptr, rows, cols, depth,
    PIECES: tl.constexpr, BITS: tl.constexpr, RECORD: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    DEPTH: tl.constexpr, GROUP: tl.constexpr, PARTS: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    """The greatest of each PIECES columns of x W^T + b and, if RECORD, the winners' numbers in BITS bits each."""
    DTYPE: tl.constexpr = y_ptr.dtype.element_ty
    PART: tl.constexpr = COLS // PARTS
    OUT: tl.constexpr = PART // PIECES
    PER: tl.constexpr = 8 // BITS
    x, weight = _matrix(x_ptr, rows, depth, depth, ROWS, DEPTH), _matrix(weight_ptr, cols, depth, depth, COLS, DEPTH)
    outs = cols // PIECES
    y = _matrix(y_ptr, rows, outs, outs, ROWS, OUT)
    row_tiles, col_tiles = tl.cdiv(rows, ROWS), tl.cdiv(cols, COLS)
    for tile in tl.range(tl.program_id(0), row_tiles * col_tiles, tl.num_programs(0), flatten=FLAT):
        down, right = _place(tile, row_tiles, col_tiles, GROUP)
        row, col = down * ROWS, right * COLS
        parts = _parts(_product(x, weight, row, col, depth, ROWS, COLS, DEPTH), PARTS, ROWS, COLS)
        for part in tl.static_range(PARTS):
            at = col + part * PART
            greatest = _biased(parts[part], bias_ptr, at, cols, PART)
            piece = tl.zeros((ROWS, PART), tl.int32)
            for level in tl.static_range(log2(PIECES)):
                greatest, piece = _compete(greatest, piece, level, ROWS, PART >> (level + 1))
            out = at // PIECES
            y.store([row, out], greatest.to(DTYPE))
            if RECORD:
                codes = tl.reshape(piece, [ROWS, OUT // PER, PER]) << (tl.arange(0, PER) * BITS)[None, None, :]
                packed = tl.sum(codes, 2)
                down_at, byte = row + tl.arange(0, ROWS)[:, None], out // PER + tl.arange(0, OUT // PER)[None, :]
                places = winners_ptr + down_at.to(tl.int64) * (outs // PER) + byte
                tl.store(places, packed.to(tl.uint8), mask=(down_at < rows) & (byte < outs // PER))


@triton.jit
def _compete(x, piece, LEVEL: tl.constexpr, ROWS: tl.constexpr, PAIRS: tl.constexpr):
    """The greater of each two neighbours in a row, and its number."""
    even, odd = tl.split(tl.reshape(x, [ROWS, PAIRS, 2]))
    even_piece, odd_piece = tl.split(tl.reshape(piece, [ROWS, PAIRS, 2]))
    beats = wins(odd, even)
    return tl.where(beats, odd, even), tl.where(beats, odd_piece + (1 << LEVEL), even_piece)
