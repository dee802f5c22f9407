"""The kernels of the random family: 16-byte loads beside random numbers drawn in the registers that need them.

Operands are `rows` rows of `cols` adjacent elements as in `kernels.py`. The element in row r and column c has number
r cols + c, wherever it lies, so that backward draws for it what forward drew.
"""

import triton
import triton.language as tl

from ..contracts.random import BERNOULLI_STEPS
from .math import compute_type, is_fast
from .packing import pack, unpack
from .philox import halves, words
from .smooth import sigmoid_value
from .tiles import load, own_tile, places, store

_BERNOULLI_STEPS = tl.constexpr(BERNOULLI_STEPS)


@triton.jit
def _slopes(seed, number, scale, offset, DTYPE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """The slopes of a tile, as csrc/cpu/random.cpp forms them from the same bits."""
    if DTYPE.primitive_bitwidth == 64:
        slope = tl.fma(words(seed, number, ROWS, COLS, 4).to(tl.float64), scale, offset)
    elif DTYPE.primitive_bitwidth == 32:
        one_to_two = (words(seed, number, ROWS, COLS, 4) >> 9 | 0x3F800000).to(tl.float32, bitcast=True)
        slope = tl.fma(one_to_two, scale, offset)
    else:
        # 16 bits resolve a slope that the product rounds to at most 11. They become the last bits of 2^23 + bits.
        integer = (halves(seed, number, ROWS, COLS) | 0x4B000000).to(tl.float32, bitcast=True)
        slope = tl.fma(integer, scale, offset)
    return slope


@triton.jit
def rrelu(
    x_ptr,
    y_ptr,
    seed_ptr,
    scale: tl.float64,
    offset: tl.float64,
    rows,
    cols,
    x_stride,
    y_stride,
    FLAT: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """y = x, times a slope of its own where x <= 0"""
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    COMPUTE: tl.constexpr = tl.float64 if DTYPE.primitive_bitwidth == 64 else tl.float32
    row, first_col, col, mask, full = own_tile(rows, cols, FLAT, BLOCK_ROWS, BLOCK_COLS)
    x = load(places(x_ptr, x_stride, row, first_col, col, FLAT), mask, full, COMPUTE, EVEN)
    scale, offset = tl.full((), scale, COMPUTE), tl.full((), offset, COMPUTE)
    number = row * cols + first_col
    slope = _slopes(tl.load(seed_ptr), number, scale, offset, DTYPE, BLOCK_ROWS, BLOCK_COLS)
    y = x * tl.where(x <= 0, slope, 1.0)
    store(places(y_ptr, y_stride, row, first_col, col, FLAT), y, mask, full, EVEN)


@triton.jit
def rrelu_backward(
    grad_ptr,
    x_ptr,
    grad_x_ptr,
    seed_ptr,
    scale: tl.float64,
    offset: tl.float64,
    rows,
    cols,
    grad_stride,
    x_stride,
    grad_x_stride,
    FLAT: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """grad_x = grad, times the slope that forward drew where x <= 0"""
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    COMPUTE: tl.constexpr = tl.float64 if DTYPE.primitive_bitwidth == 64 else tl.float32
    row, first_col, col, mask, full = own_tile(rows, cols, FLAT, BLOCK_ROWS, BLOCK_COLS)
    x = load(places(x_ptr, x_stride, row, first_col, col, FLAT), mask, full, COMPUTE, EVEN)
    grad = load(places(grad_ptr, grad_stride, row, first_col, col, FLAT), mask, full, COMPUTE, EVEN)
    scale, offset = tl.full((), scale, COMPUTE), tl.full((), offset, COMPUTE)
    number = row * cols + first_col
    slope = _slopes(tl.load(seed_ptr), number, scale, offset, DTYPE, BLOCK_ROWS, BLOCK_COLS)
    grad_x = grad * tl.where(x <= 0, slope, 1.0)
    store(places(grad_x_ptr, grad_x_stride, row, first_col, col, FLAT), grad_x, mask, full, EVEN)


@triton.jit
def _bytes(packed_ptr, first, count, BLOCK: tl.constexpr):
    """Where the bits of BLOCK elements from number `first` on lie, and which of the bytes there are."""
    byte = tl.arange(0, BLOCK // 8)
    return packed_ptr + first // 8 + byte, byte < (tl.minimum(count - first, BLOCK).to(tl.int32) + 7) // 8


@triton.jit
def rrelu_signs(
    x_ptr,
    y_ptr,
    packed_ptr,
    seed_ptr,
    scale: tl.float64,
    offset: tl.float64,
    count,
    BLOCK: tl.constexpr,
):
    """rrelu of adjacent elements, and a bit for each, set where x <= 0."""
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    COMPUTE: tl.constexpr = tl.float64 if DTYPE.primitive_bitwidth == 64 else tl.float32
    row, first, at, mask, full = own_tile(1, count, True, 1, BLOCK)
    x = load(x_ptr + first + at, mask, full, COMPUTE, False)
    scale, offset = tl.full((), scale, COMPUTE), tl.full((), offset, COMPUTE)
    slope = _slopes(tl.load(seed_ptr), row + first, scale, offset, DTYPE, 1, BLOCK)
    below = (x <= 0) & mask
    store(y_ptr + first + at, x * tl.where(below, slope, 1.0), mask, full, False)
    places, inside = _bytes(packed_ptr, first, count, BLOCK)
    packed = pack(tl.reshape(below.to(tl.int32), [BLOCK]), 1, 8, BLOCK).to(tl.uint8)
    tl.store(places, packed, mask=inside)


@triton.jit
def rrelu_from_signs(
    grad_ptr,
    grad_x_ptr,
    packed_ptr,
    seed_ptr,
    scale: tl.float64,
    offset: tl.float64,
    count,
    BLOCK: tl.constexpr,
):
    """grad_x = grad, times the slope that forward drew where it set a bit."""
    DTYPE: tl.constexpr = grad_ptr.dtype.element_ty
    COMPUTE: tl.constexpr = tl.float64 if DTYPE.primitive_bitwidth == 64 else tl.float32
    row, first, at, mask, full = own_tile(1, count, True, 1, BLOCK)
    grad = load(grad_ptr + first + at, mask, full, COMPUTE, False)
    places, inside = _bytes(packed_ptr, first, count, BLOCK)
    below = tl.reshape(unpack(tl.load(places, mask=inside, other=0), 1, BLOCK), [1, BLOCK])
    scale, offset = tl.full((), scale, COMPUTE), tl.full((), offset, COMPUTE)
    slope = _slopes(tl.load(seed_ptr), row + first, scale, offset, DTYPE, 1, BLOCK)
    store(grad_x_ptr + first + at, grad * tl.where(below != 0, slope, 1.0), mask, full, False)


@triton.jit
def dropout(
    x_ptr,
    y_ptr,
    seed_ptr,
    threshold: tl.int64,
    scale: tl.float64,
    rows,
    cols,
    x_stride,
    y_stride,
    FLAT: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """y = x scale where the random word is at least `threshold`, else 0"""
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    COMPUTE: tl.constexpr = tl.float64 if DTYPE.primitive_bitwidth == 64 else tl.float32
    EACH: tl.constexpr = 8 if DTYPE.primitive_bitwidth == 16 else 4
    row, first_col, col, mask, full = own_tile(rows, cols, FLAT, BLOCK_ROWS, BLOCK_COLS)
    x = load(places(x_ptr, x_stride, row, first_col, col, FLAT), mask, full, COMPUTE, EVEN)
    word = words(tl.load(seed_ptr), row * cols + first_col, BLOCK_ROWS, BLOCK_COLS, EACH)
    # Multiplied by 0 rather than replaced by it where dropped, as PyTorch does: a NaN stays one.
    least = tl.full((), threshold, tl.int64).to(tl.uint32)  # torch.compile gives it as a signed word
    y = x * tl.where(word >= least, tl.full((), scale, COMPUTE), 0.0)
    store(places(y_ptr, y_stride, row, first_col, col, FLAT), y, mask, full, EVEN)


@triton.jit
def bernoulli(
    x_ptr,
    y_ptr,
    seed_ptr,
    rows,
    cols,
    x_stride,
    y_stride,
    FLAT: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """y = 1 with probability sigmoid(x), else 0"""
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype)
    EACH: tl.constexpr = 8 if DTYPE.primitive_bitwidth == 16 else 4
    row, first_col, col, mask, full = own_tile(rows, cols, FLAT, BLOCK_ROWS, BLOCK_COLS)
    x = load(places(x_ptr, x_stride, row, first_col, col, FLAT), mask, full, COMPUTE, EVEN)
    word = words(tl.load(seed_ptr), row * cols + first_col, BLOCK_ROWS, BLOCK_COLS, EACH)
    probability = sigmoid_value(-tl.abs(x), 0.0, 0.0, is_fast(x_ptr.dtype))
    rare = (word >> 1).to(tl.int32).to(COMPUTE) + 0.5 < probability * _BERNOULLI_STEPS
    y = tl.where(x == x, tl.where(rare != (x > 0), 1.0, 0.0), x)
    store(places(y_ptr, y_stride, row, first_col, col, FLAT), y, mask, full, EVEN)
