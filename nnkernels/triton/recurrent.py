"""Gated recurrent units in Triton; what each function computes is told in `contracts/recurrent.py`.

A thread takes a unit of a row, and reads what belongs to it from the three blocks.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..recording import launch
from . import hardware
from .math import compute_type, is_fast
from .smooth import sigmoid_d1, sigmoid_value, tanh_d1, tanh_value

NUM_WARPS = 4
BLOCK = 256


def gru_gates(given: Tensor, recurred: Tensor, hidden: Tensor) -> Tensor:
    following = hidden.new_empty(hidden.shape)
    if hidden.numel():
        with hardware.guard(hidden.device):
            launch(forward, (-(-hidden.numel() // BLOCK),))(
                given, recurred, hidden, following, *hidden.shape,
                given.stride(0), recurred.stride(0), hidden.stride(0), BLOCK, num_warps=NUM_WARPS,
            )  # fmt: skip
    return following


def gru_gates_backward(grad: Tensor, given: Tensor, recurred: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    found = given.new_empty(given.shape), given.new_empty(given.shape), hidden.new_empty(hidden.shape)
    if hidden.numel():
        with hardware.guard(hidden.device):
            launch(backward, (-(-hidden.numel() // BLOCK),))(
                grad, given, recurred, hidden, *found, *hidden.shape,
                grad.stride(0), given.stride(0), recurred.stride(0), hidden.stride(0), BLOCK, num_warps=NUM_WARPS,
            )  # fmt: skip
    return found


@triton.jit
def _unit(rows, width, BLOCK: tl.constexpr):
    """Row, number and mask of this program's units."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row = at // width
    return row, at - row * width, row < rows


@triton.jit
def _blocks(pointer, row_stride, row, unit, width, inside, COMPUTE: tl.constexpr):
    """What the three blocks of a row have for each unit."""
    at = pointer + row * row_stride + unit
    reset = tl.load(at, mask=inside, other=0.0).to(COMPUTE)
    keep = tl.load(at + width, mask=inside, other=0.0).to(COMPUTE)
    return reset, keep, tl.load(at + 2 * width, mask=inside, other=0.0).to(COMPUTE)


@triton.jit
def _write(pointer, row, unit, width, inside, reset, keep, candidate):
    """The three blocks of contiguous rows."""
    at = pointer + row * (3 * width) + unit
    tl.store(at, reset.to(pointer.dtype.element_ty), mask=inside)
    tl.store(at + width, keep.to(pointer.dtype.element_ty), mask=inside)
    tl.store(at + 2 * width, candidate.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def forward(
    given_ptr, recurred_ptr, hidden_ptr, next_ptr, rows, width, given_row, recurred_row, hidden_row,
    BLOCK: tl.constexpr,
):  # fmt: skip
    COMPUTE: tl.constexpr = compute_type(hidden_ptr.dtype)
    FAST: tl.constexpr = is_fast(hidden_ptr.dtype)
    row, unit, inside = _unit(rows, width, BLOCK)
    x_r, x_z, x_n = _blocks(given_ptr, given_row, row, unit, width, inside, COMPUTE)
    h_r, h_z, h_n = _blocks(recurred_ptr, recurred_row, row, unit, width, inside, COMPUTE)
    hidden = tl.load(hidden_ptr + row * hidden_row + unit, mask=inside, other=0.0).to(COMPUTE)
    reset = sigmoid_value(x_r + h_r, 0.0, 0.0, FAST)
    keep = sigmoid_value(x_z + h_z, 0.0, 0.0, FAST)
    candidate = tanh_value(tl.fma(reset, h_n, x_n), 0.0, 0.0, FAST)
    following = tl.fma(keep, hidden - candidate, candidate)
    tl.store(next_ptr + row * width + unit, following.to(next_ptr.dtype.element_ty), mask=inside)


@triton.jit
def backward(
    grad_ptr, given_ptr, recurred_ptr, hidden_ptr, for_given_ptr, for_recurred_ptr, for_hidden_ptr, rows, width,
    grad_row, given_row, recurred_row, hidden_row,
    BLOCK: tl.constexpr,
):  # fmt: skip
    COMPUTE: tl.constexpr = compute_type(hidden_ptr.dtype)
    FAST: tl.constexpr = is_fast(hidden_ptr.dtype)
    row, unit, inside = _unit(rows, width, BLOCK)
    x_r, x_z, x_n = _blocks(given_ptr, given_row, row, unit, width, inside, COMPUTE)
    h_r, h_z, h_n = _blocks(recurred_ptr, recurred_row, row, unit, width, inside, COMPUTE)
    hidden = tl.load(hidden_ptr + row * hidden_row + unit, mask=inside, other=0.0).to(COMPUTE)
    grad = tl.load(grad_ptr + row * grad_row + unit, mask=inside, other=0.0).to(COMPUTE)
    logit = x_z + h_z
    reset = sigmoid_value(x_r + h_r, 0.0, 0.0, FAST)
    inner = tl.fma(reset, h_n, x_n)
    for_candidate = grad * sigmoid_value(-logit, 0.0, 0.0, FAST) * tanh_d1(inner, 0.0, 0.0, FAST)
    for_reset = for_candidate * h_n * sigmoid_d1(x_r + h_r, 0.0, 0.0, FAST)
    for_keep = grad * (hidden - tanh_value(inner, 0.0, 0.0, FAST)) * sigmoid_d1(logit, 0.0, 0.0, FAST)
    _write(for_given_ptr, row, unit, width, inside, for_reset, for_keep, for_candidate)
    _write(for_recurred_ptr, row, unit, width, inside, for_reset, for_keep, for_candidate * reset)
    for_hidden = grad * sigmoid_value(logit, 0.0, 0.0, FAST)
    tl.store(for_hidden_ptr + row * width + unit, for_hidden.to(for_hidden_ptr.dtype.element_ty), mask=inside)
