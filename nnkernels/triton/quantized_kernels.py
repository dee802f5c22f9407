"""Activation and cast to 8 bits, in Triton: a value is computed, measured and rounded while it is in registers.

Operands are rows of adjacent elements, as in `kernels`; the second one is there if GATED (see `gated`).
"""

import triton
import triton.language as tl

from ..contracts.quantized import SMALLEST_SCALE
from .gated import bounded, load_parts
from .tiles import load, own_tile, places

_SMALLEST_SCALE = tl.constexpr(SMALLEST_SCALE)
E4M3, E5M2, INT8 = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
# Of the two floats: where the mantissa's bits end in float32's, what that leaves of float32's exponent bias, the
# smallest normal number, and the float32 whose unit in the last place is the smallest number.
_SHAPES = tl.constexpr(((20, 120 << 3, 2.0**-6, 2.0**14), (21, 112 << 2, 2.0**-14, 2.0**7)))


@triton.jit
def _values(
    x_ptr,
    up_ptr,
    a,
    b,
    limit,
    offset,
    x_stride,
    up_stride,
    rows,
    cols,
    row,
    first_col,
    col,
    mask,
    full,
    VALUE: tl.constexpr,
    GATED: tl.constexpr,
    BOUNDED: tl.constexpr,
    PAIRS: tl.constexpr,
    FLAT: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """A tile of f(x), or of f(gate) up, in float32."""
    FAST: tl.constexpr = x_ptr.dtype.element_ty.primitive_bitwidth == 16
    COMPUTE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    a, b = tl.full((), a, COMPUTE), tl.full((), b, COMPUTE)
    if GATED:
        gate, up = load_parts(
            x_ptr, up_ptr, x_stride, up_stride, rows, cols, row, first_col, col, mask, full,
            COMPUTE, PAIRS, FLAT, EVEN, BLOCK_ROWS, BLOCK_COLS,
        )  # fmt: skip
        gate, up = bounded(gate, up, tl.full((), limit, COMPUTE), tl.full((), offset, COMPUTE), BOUNDED)
        return (VALUE(gate, a, b, FAST) * up).to(tl.float32)
    else:
        x = load(places(x_ptr, x_stride, row, first_col, col, FLAT), mask, full, COMPUTE, EVEN)
        return VALUE(x, a, b, FAST).to(tl.float32)


@triton.jit
def _size(y):
    """|y| as integers, which are in the same order, NaN last."""
    return y.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def _greatest(y, mask, full, ROWS: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr):
    """The greatest magnitude of each group of a tile, as `_size` has it, of what is not masked."""
    if full:
        greatest = tl.max(tl.reshape(_size(y), (ROWS, GROUPS, GROUP)), 2)
    else:
        greatest = tl.max(tl.reshape(tl.where(mask, _size(y), 0), (ROWS, GROUPS, GROUP)), 2)
    return greatest


@triton.jit
def _scale_of(size, LARGEST: tl.constexpr, POW2: tl.constexpr):
    """The scale for a greatest magnitude: what maps it to LARGEST, or the power of two next above."""
    scale = size.to(tl.float32, bitcast=True) * (1.0 / LARGEST)
    tiny = scale < _SMALLEST_SCALE
    if POW2:
        up = ((scale.to(tl.int32, bitcast=True) + 0x7FFFFF) & 0x7F800000).to(tl.float32, bitcast=True)
        scale = tl.where(scale == scale, up, scale)
    return tl.where(tiny, 1.0, scale)


@triton.jit
def _inverse(scale):
    return tl.div_rn(tl.full(scale.shape, 1.0, tl.float32), scale)


@triton.jit
def _encoded(v, KIND: tl.constexpr, LARGEST: tl.constexpr, NATIVE: tl.constexpr):
    """The bits of v in the 8-bit type, rounded to nearest even, saturating.

    NATIVE says that the GPU has an instruction for it, which saturates by itself. Else a normal number's mantissa is
    rounded as an integer, carrying into the exponent; adding a number whose last place is the smallest one rounds the
    others.
    """
    if KIND == INT8:
        near = tl.minimum(tl.maximum(tl.where(v == v, v, 0.0), -LARGEST), LARGEST)
        return (near + 1.5 * 2**23).to(tl.int32, bitcast=True).to(tl.uint8)
    elif NATIVE:
        return v.to(tl.float8e5 if KIND == E5M2 else tl.float8e4nv).to(tl.uint8, bitcast=True)
    else:
        SHIFT: tl.constexpr = _SHAPES[KIND][0]
        EXCESS: tl.constexpr = _SHAPES[KIND][1]
        NORMAL: tl.constexpr = _SHAPES[KIND][2]
        MAGIC: tl.constexpr = _SHAPES[KIND][3]
        size = tl.abs(v)
        size = tl.where(size > LARGEST, LARGEST, size)
        bits = size.to(tl.int32, bitcast=True)
        normal = ((bits + ((1 << (SHIFT - 1)) - 1) + ((bits >> SHIFT) & 1)) >> SHIFT) - EXCESS
        magic = tl.full(size.shape, MAGIC, tl.float32)
        small = (size + magic).to(tl.int32, bitcast=True) - magic.to(tl.int32, bitcast=True)
        code = tl.where(size < NORMAL, small, normal)
        code = tl.where(v == v, code, 0x7F)
        return (((v.to(tl.int32, bitcast=True) >> 24) & 0x80) | code).to(tl.uint8)


@triton.jit
def _store_code(pointers, code, mask, full, EVEN: tl.constexpr):
    if EVEN:
        tl.store(pointers, code, mask=mask)
    elif full:
        tl.store(pointers, code)
    else:
        tl.store(pointers, code, mask=mask)


@triton.jit
def scaled(
    x_ptr,
    up_ptr,
    q_ptr,
    scale_ptr,
    amax_ptr,
    a: tl.float64,
    b: tl.float64,
    limit: tl.float64,
    offset: tl.float64,
    rows,
    cols,
    x_stride,
    up_stride,
    q_stride,
    VALUE: tl.constexpr,
    GATED: tl.constexpr,
    BOUNDED: tl.constexpr,
    PAIRS: tl.constexpr,
    KIND: tl.constexpr,
    LARGEST: tl.constexpr,
    NATIVE: tl.constexpr,
    FLAT: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """One scale for all: writes the codes if there is a scale, and the greatest magnitude if it is asked for.

    What the maximum was when the program began tells most programs that they need not raise it; asking at the end would
    let every one of them wait for memory twice.
    """
    if amax_ptr is not None:
        found = tl.load(amax_ptr)
    row, first_col, col, mask, full = own_tile(rows, cols, FLAT, BLOCK_ROWS, BLOCK_COLS)
    y = _values(
        x_ptr, up_ptr, a, b, limit, offset, x_stride, up_stride, rows, cols, row, first_col, col, mask, full,
        VALUE, GATED, BOUNDED, PAIRS, FLAT, EVEN, BLOCK_ROWS, BLOCK_COLS,
    )  # fmt: skip
    if scale_ptr is not None:
        code = _encoded(y * _inverse(tl.load(scale_ptr)), KIND, LARGEST, NATIVE)
        _store_code(places(q_ptr, q_stride, row, first_col, col, FLAT), code, mask, full, EVEN)
    if amax_ptr is not None:
        size = tl.max(_greatest(y, mask, full, 1, 1, BLOCK_ROWS * BLOCK_COLS))
        tl.atomic_max(amax_ptr, size, mask=size > found, sem="relaxed")


@triton.jit
def grouped(
    x_ptr,
    up_ptr,
    q_ptr,
    scale_ptr,
    a: tl.float64,
    b: tl.float64,
    limit: tl.float64,
    offset: tl.float64,
    rows,
    cols,
    x_stride,
    up_stride,
    q_stride,
    VALUE: tl.constexpr,
    GATED: tl.constexpr,
    BOUNDED: tl.constexpr,
    PAIRS: tl.constexpr,
    KIND: tl.constexpr,
    LARGEST: tl.constexpr,
    NATIVE: tl.constexpr,
    POW2: tl.constexpr,
    FLAT: tl.constexpr,
    EVEN: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """A scale for each GROUP of adjacent elements of a row, the last of a row being shorter where it has to."""
    GROUPS: tl.constexpr = BLOCK_COLS // GROUP
    row, first_col, col, mask, full = own_tile(rows, cols, FLAT, BLOCK_ROWS, BLOCK_COLS)
    y = _values(
        x_ptr, up_ptr, a, b, limit, offset, x_stride, up_stride, rows, cols, row, first_col, col, mask, full,
        VALUE, GATED, BOUNDED, PAIRS, FLAT, EVEN, BLOCK_ROWS, BLOCK_COLS,
    )  # fmt: skip
    scale = _scale_of(_greatest(y, mask, full, BLOCK_ROWS, GROUPS, GROUP), LARGEST, POW2)
    v = tl.reshape(y, (BLOCK_ROWS, GROUPS, GROUP)) * _inverse(scale)[:, :, None]
    code = _encoded(tl.reshape(v, (BLOCK_ROWS, BLOCK_COLS)), KIND, LARGEST, NATIVE)
    _store_code(places(q_ptr, q_stride, row, first_col, col, FLAT), code, mask, full, EVEN)
    groups = tl.cdiv(cols, GROUP)
    group = first_col // GROUP + tl.arange(0, GROUPS)[None, :]
    tl.store(scale_ptr + row * groups + group, scale, mask=(row < rows) & (group < groups))


@triton.jit
def long_rows(
    x_ptr,
    up_ptr,
    q_ptr,
    scale_ptr,
    a: tl.float64,
    b: tl.float64,
    limit: tl.float64,
    offset: tl.float64,
    rows,
    cols,
    x_stride,
    up_stride,
    q_stride,
    VALUE: tl.constexpr,
    GATED: tl.constexpr,
    BOUNDED: tl.constexpr,
    PAIRS: tl.constexpr,
    KIND: tl.constexpr,
    LARGEST: tl.constexpr,
    NATIVE: tl.constexpr,
    POW2: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """A scale for each row, one program for a row that is read twice."""
    row = tl.program_id(0).to(tl.int64) + tl.zeros((1, 1), tl.int64)
    col = tl.arange(0, BLOCK_COLS)[None, :]
    size = tl.zeros((1, BLOCK_COLS), tl.int32)
    for first_col in range(0, cols, BLOCK_COLS):
        mask = col < cols - first_col
        full = cols - first_col >= BLOCK_COLS
        y = _values(
            x_ptr, up_ptr, a, b, limit, offset, x_stride, up_stride, rows, cols, row, first_col, col, mask, full,
            VALUE, GATED, BOUNDED, PAIRS, False, EVEN, 1, BLOCK_COLS,
        )  # fmt: skip
        size = tl.maximum(size, tl.where(mask, _size(y), 0))
    scale = _scale_of(tl.max(size, 1), LARGEST, POW2)[:, None]
    tl.store(scale_ptr + row, scale)
    inverse = _inverse(scale)
    for first_col in range(0, cols, BLOCK_COLS):
        mask = col < cols - first_col
        full = cols - first_col >= BLOCK_COLS
        y = _values(
            x_ptr, up_ptr, a, b, limit, offset, x_stride, up_stride, rows, cols, row, first_col, col, mask, full,
            VALUE, GATED, BOUNDED, PAIRS, False, EVEN, 1, BLOCK_COLS,
        )  # fmt: skip
        code = _encoded(y * inverse, KIND, LARGEST, NATIVE)
        _store_code(places(q_ptr, q_stride, row, first_col, col, False), code, mask, full, EVEN)
