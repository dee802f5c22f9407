"""Three elementwise kernels that serve the whole family: the formula is a compile-time parameter."""

import triton
import triton.language as tl

from .tiles import describe_launch, load, own_tile, places, store, times


@triton.jit(launch_metadata=describe_launch)
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
    row, first_col, col, mask, full = own_tile(rows, cols, FLAT, BLOCK_ROWS, BLOCK_COLS)
    x = load(places(x_ptr, x_stride, row, first_col, col, FLAT), mask, full, COMPUTE, EVEN)
    y = VALUE(x, tl.full((), a, COMPUTE), tl.full((), b, COMPUTE), FAST)
    store(places(y_ptr, y_stride, row, first_col, col, FLAT), y, mask, full, EVEN)


@triton.jit(launch_metadata=describe_launch)
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
    row, first_col, col, mask, full = own_tile(rows, cols, FLAT, BLOCK_ROWS, BLOCK_COLS)
    x = load(places(x_ptr, x_stride, row, first_col, col, FLAT), mask, full, COMPUTE, EVEN)
    grad = load(places(grad_ptr, grad_stride, row, first_col, col, FLAT), mask, full, COMPUTE, EVEN)
    grad_x = times(grad, D1(x, tl.full((), a, COMPUTE), tl.full((), b, COMPUTE), FAST), MASKS)
    store(places(grad_x_ptr, grad_x_stride, row, first_col, col, FLAT), grad_x, mask, full, EVEN)


@triton.jit(launch_metadata=describe_launch)
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
    row, first_col, col, mask, full = own_tile(rows, cols, FLAT, BLOCK_ROWS, BLOCK_COLS)
    x = load(places(x_ptr, x_stride, row, first_col, col, FLAT), mask, full, COMPUTE, EVEN)
    grad = load(places(grad_ptr, grad_stride, row, first_col, col, FLAT), mask, full, COMPUTE, EVEN)
    grad_grad = load(places(grad_grad_ptr, grad_grad_stride, row, first_col, col, FLAT), mask, full, COMPUTE, EVEN)
    a, b = tl.full((), a, COMPUTE), tl.full((), b, COMPUTE)
    for_grad = times(grad_grad, D1(x, a, b, FAST), MASKS)
    for_x = times(grad_grad * grad, D2(x, a, b, FAST), MASKS)
    store(places(for_grad_ptr, for_grad_stride, row, first_col, col, FLAT), for_grad, mask, full, EVEN)
    store(places(for_x_ptr, for_x_stride, row, first_col, col, FLAT), for_x, mask, full, EVEN)
