"""Three elementwise kernels that serve the whole family: the formula is a compile-time parameter.

Operands are `rows` rows of `cols` adjacent elements, each operand with its own distance between rows (`layout.plan`).
FLAT says that there is one row: then no program divides. EVEN says that cols is a multiple of 16: then the mask never
splits a vector, and one path serves; otherwise full tiles take a path without a mask, so that they still load 16 bytes
at a time. Offsets are formed once for each tile or row in 64 bits and within it in 32: tensors beyond 2^31 elements
cost the others nothing.
"""

from typing import Any

import triton
import triton.language as tl


def _describe(grid: tuple[int, ...], metadata: Any, args: dict[str, Any]) -> dict[str, Any]:
    """What a profiler shows of a launch: the formula and the bytes moved. Called only while one listens."""
    formula = args.get("VALUE") or args["D1"]
    operands = [value for value in args.values() if hasattr(value, "element_size")]
    moved = args["rows"] * args["cols"] * sum(operand.element_size() for operand in operands)
    return {"name": f"{metadata.name}[{formula.__name__}]", "bytes": moved}


@triton.jit
def _tile(rows, cols, FLAT: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr):
    """This program's tile: its row numbers, first column and columns, its mask, and whether it is full."""
    program = tl.program_id(0).to(tl.int64)
    if FLAT:
        first_row = program * 0
        first_col = program * BLOCK_COLS
    else:
        tiles = tl.cdiv(cols, BLOCK_COLS)
        first_row = program // tiles * BLOCK_ROWS
        first_col = program % tiles * BLOCK_COLS
    row = tl.arange(0, BLOCK_ROWS)[:, None]
    col = tl.arange(0, BLOCK_COLS)[None, :]
    cols_left = tl.minimum(cols - first_col, BLOCK_COLS).to(tl.int32)
    if FLAT:
        return first_row + row, first_col, col, col < cols_left, cols_left == BLOCK_COLS
    else:
        rows_left = tl.minimum(rows - first_row, BLOCK_ROWS).to(tl.int32)
        full = (cols_left == BLOCK_COLS) & (rows_left == BLOCK_ROWS)
        return first_row + row, first_col, col, (col < cols_left) & (row < rows_left), full


@triton.jit
def _at(base, stride, row, first_col, col, FLAT: tl.constexpr):
    if FLAT:
        return base + first_col + col
    else:
        return base + first_col + row * stride + col


@triton.jit
def _load(pointers, mask, full, COMPUTE: tl.constexpr, EVEN: tl.constexpr):
    if EVEN:
        x = tl.load(pointers, mask=mask)
    elif full:
        x = tl.load(pointers)
    else:
        x = tl.load(pointers, mask=mask)
    return x.to(COMPUTE)


@triton.jit
def _store(pointers, y, mask, full, EVEN: tl.constexpr):
    y = y.to(pointers.dtype.element_ty)
    if EVEN:
        tl.store(pointers, y, mask=mask)
    elif full:
        tl.store(pointers, y)
    else:
        tl.store(pointers, y, mask=mask)


@triton.jit
def _times(grad, slope, MASKS: tl.constexpr):
    product = grad * slope
    if MASKS:
        product = tl.where(slope == 0, 0.0, product)
    return product


@triton.jit(launch_metadata=_describe)
def forward(
    x_ptr,
    y_ptr,
    a: tl.float64,
    b: tl.float64,
    rows,
    cols,
    x_stride,
    y_stride,
    VALUE: tl.constexpr,
    FLAT: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """y = f(x)"""
    FAST: tl.constexpr = x_ptr.dtype.element_ty.primitive_bitwidth == 16
    COMPUTE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    row, first_col, col, mask, full = _tile(rows, cols, FLAT, BLOCK_ROWS, BLOCK_COLS)
    x = _load(_at(x_ptr, x_stride, row, first_col, col, FLAT), mask, full, COMPUTE, EVEN)
    y = VALUE(x, tl.full((), a, COMPUTE), tl.full((), b, COMPUTE), FAST)
    _store(_at(y_ptr, y_stride, row, first_col, col, FLAT), y, mask, full, EVEN)


@triton.jit(launch_metadata=_describe)
def backward(
    grad_ptr,
    x_ptr,
    grad_x_ptr,
    a: tl.float64,
    b: tl.float64,
    rows,
    cols,
    grad_stride,
    x_stride,
    grad_x_stride,
    D1: tl.constexpr,
    MASKS: tl.constexpr,
    FLAT: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """grad_x = grad f'(x)"""
    FAST: tl.constexpr = x_ptr.dtype.element_ty.primitive_bitwidth == 16
    COMPUTE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    row, first_col, col, mask, full = _tile(rows, cols, FLAT, BLOCK_ROWS, BLOCK_COLS)
    x = _load(_at(x_ptr, x_stride, row, first_col, col, FLAT), mask, full, COMPUTE, EVEN)
    grad = _load(_at(grad_ptr, grad_stride, row, first_col, col, FLAT), mask, full, COMPUTE, EVEN)
    grad_x = _times(grad, D1(x, tl.full((), a, COMPUTE), tl.full((), b, COMPUTE), FAST), MASKS)
    _store(_at(grad_x_ptr, grad_x_stride, row, first_col, col, FLAT), grad_x, mask, full, EVEN)


@triton.jit(launch_metadata=_describe)
def double_backward(
    grad_grad_ptr,
    grad_ptr,
    x_ptr,
    for_grad_ptr,
    for_x_ptr,
    a: tl.float64,
    b: tl.float64,
    rows,
    cols,
    grad_grad_stride,
    grad_stride,
    x_stride,
    for_grad_stride,
    for_x_stride,
    D1: tl.constexpr,
    D2: tl.constexpr,
    MASKS: tl.constexpr,
    FLAT: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """for_grad = grad_grad f'(x), for_x = grad_grad grad f''(x)"""
    FAST: tl.constexpr = x_ptr.dtype.element_ty.primitive_bitwidth == 16
    COMPUTE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    row, first_col, col, mask, full = _tile(rows, cols, FLAT, BLOCK_ROWS, BLOCK_COLS)
    x = _load(_at(x_ptr, x_stride, row, first_col, col, FLAT), mask, full, COMPUTE, EVEN)
    grad = _load(_at(grad_ptr, grad_stride, row, first_col, col, FLAT), mask, full, COMPUTE, EVEN)
    grad_grad = _load(_at(grad_grad_ptr, grad_grad_stride, row, first_col, col, FLAT), mask, full, COMPUTE, EVEN)
    a, b = tl.full((), a, COMPUTE), tl.full((), b, COMPUTE)
    for_grad = _times(grad_grad, D1(x, a, b, FAST), MASKS)
    for_x = _times(grad_grad * grad, D2(x, a, b, FAST), MASKS)
    _store(_at(for_grad_ptr, for_grad_stride, row, first_col, col, FLAT), for_grad, mask, full, EVEN)
    _store(_at(for_x_ptr, for_x_stride, row, first_col, col, FLAT), for_x, mask, full, EVEN)
