"""The columns' sums of matrices of partial sums, which the backward pass of layer and rms norm leaves."""

import triton
import triton.language as tl


@triton.jit
def _add_columns(partial_ptr, out_ptr, partials, cols, col, BLOCK: tl.constexpr, BLOCK_COLS: tl.constexpr):
    total = tl.zeros((BLOCK, BLOCK_COLS), partial_ptr.dtype.element_ty)
    for first in range(0, partials, BLOCK):
        row = first + tl.arange(0, BLOCK)[:, None]
        total += tl.load(partial_ptr + row.to(tl.int64) * cols + col, mask=(row < partials) & (col < cols), other=0.0)
    out_ptr += col
    tl.store(out_ptr, tl.sum(total, 0, keep_dims=True).to(out_ptr.dtype.element_ty), mask=col < cols)


@triton.jit
def add_partials(
    weight_partial_ptr,
    bias_partial_ptr,
    weight_ptr,
    bias_ptr,
    partials,
    cols,
    BLOCK: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """The columns' sums of one or two matrices of partial sums, in an order that their number of rows alone decides."""
    col = tl.program_id(0) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)[None, :]
    if bias_ptr is None:
        _add_columns(weight_partial_ptr, weight_ptr, partials, cols, col, BLOCK, BLOCK_COLS)
    elif weight_ptr is None:
        _add_columns(bias_partial_ptr, bias_ptr, partials, cols, col, BLOCK, BLOCK_COLS)
    elif tl.program_id(1) == 0:
        _add_columns(weight_partial_ptr, weight_ptr, partials, cols, col, BLOCK, BLOCK_COLS)
    else:
        _add_columns(bias_partial_ptr, bias_ptr, partials, cols, col, BLOCK, BLOCK_COLS)
