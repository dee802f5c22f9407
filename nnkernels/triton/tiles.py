"""What elementwise kernels share: a program's tile of the operands, loads and stores that stay whole vectors.

Operands are `rows` rows of `cols` adjacent elements, each operand with its own distance between rows (`layout.plan`).
FLAT says that there is one row: then no program divides. EVEN says that cols is a multiple of 16: then the mask never
splits a vector, and one path serves; otherwise full tiles take a path without a mask, so that they still load 16 bytes
at a time. Offsets are formed once for each tile or row in 64 bits and within it in 32: tensors beyond 2^31 elements
cost the others nothing.
"""

from typing import Any

import triton
import triton.language as tl


def describe_launch(grid: tuple[int, ...], metadata: Any, args: dict[str, Any]) -> dict[str, Any]:
    """What a profiler shows of a launch: the formula and the bytes moved. Called only while one listens."""
    formula = args.get("VALUE") or args["D1"]
    operands = [value for value in args.values() if hasattr(value, "element_size")]
    moved = args["rows"] * args["cols"] * sum(operand.element_size() for operand in operands)
    return {"name": f"{metadata.name}[{formula.__name__}]", "bytes": moved}


@triton.jit
def own_tile(rows, cols, FLAT: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr):
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
def places(base, stride, row, first_col, col, FLAT: tl.constexpr):
    if FLAT:
        return base + first_col + col
    else:
        return base + first_col + row * stride + col


@triton.jit
def load(pointers, mask, full, COMPUTE: tl.constexpr, EVEN: tl.constexpr):
    if EVEN:
        x = tl.load(pointers, mask=mask)
    elif full:
        x = tl.load(pointers)
    else:
        x = tl.load(pointers, mask=mask)
    return x.to(COMPUTE)


@triton.jit
def store(pointers, y, mask, full, EVEN: tl.constexpr):
    y = y.to(pointers.dtype.element_ty)
    if EVEN:
        tl.store(pointers, y, mask=mask)
    elif full:
        tl.store(pointers, y)
    else:
        tl.store(pointers, y, mask=mask)


@triton.jit
def load_inside(pointers, inside, OTHER: tl.constexpr = 0.0):
    """OTHER where there is nothing inside; with None all is inside."""
    if inside is None:
        return tl.load(pointers)
    else:
        return tl.load(pointers, mask=inside, other=OTHER)


@triton.jit
def store_inside(pointers, y, inside):
    tl.store(pointers, y.to(pointers.dtype.element_ty), mask=inside)


@triton.jit
def times(grad, slope, MASKS: tl.constexpr):
    product = grad * slope
    if MASKS:
        product = tl.where(slope == 0, 0.0, product)
    return product
