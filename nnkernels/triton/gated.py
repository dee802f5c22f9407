"""The gated activations in Triton: one forward and one backward kernel, the formula a compile-time parameter.

Operands are rows of adjacent elements, as in `kernels`. Where gate and up alternate in memory (PAIRS), both come from
one tensor whose tile is twice as wide: it is loaded and stored 16 bytes at a time, split and joined in between.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..contracts.gated import Gating, caps, gate_and_up, halves, is_bounded
from ..layout import Geometry, plan
from ..recording import launch
from ..registry import elementwise
from . import backend, hardware
from .activations import FORMULAS
from .derived import softcap_d1, softcap_value
from .math import near
from .tiles import describe_launch, load, own_tile, places, store, times

HALVES, GATE_EVEN, GATE_ODD = 0, 1, 2
_LIMITS_VALUE = tl.constexpr(2)  # of BOUNDED, which is 1 where the gate is limited and 0 where nothing is
_GATE, _UP = tl.constexpr(1), tl.constexpr(2)  # bits of CAPS


@triton.jit
def _pair_tile(row, first_col, rows, cols, BLOCK_COLS: tl.constexpr):
    """The columns and the mask of a tile of pairs, in single elements."""
    col = tl.arange(0, 2 * BLOCK_COLS)[None, :]
    cols_left = tl.minimum(cols - first_col, BLOCK_COLS).to(tl.int32)
    return col, (col < 2 * cols_left) & (row < rows)


@triton.jit
def load_parts(
    gate_ptr,
    up_ptr,
    gate_stride,
    up_stride,
    rows,
    cols,
    row,
    first_col,
    col,
    mask,
    full,
    COMPUTE: tl.constexpr,
    PAIRS: tl.constexpr,
    FLAT: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    if PAIRS == 0:
        gate = load(places(gate_ptr, gate_stride, row, first_col, col, FLAT), mask, full, COMPUTE, EVEN)
        up = load(places(up_ptr, up_stride, row, first_col, col, FLAT), mask, full, COMPUTE, EVEN)
        return gate, up
    else:
        STORED: tl.constexpr = gate_ptr.dtype.element_ty
        wide_col, wide_mask = _pair_tile(row, first_col, rows, cols, BLOCK_COLS)
        pointers = places(gate_ptr, gate_stride, row, 2 * first_col, wide_col, FLAT)
        pairs = load(pointers, wide_mask, full, STORED, EVEN)
        even, odd = tl.split(tl.reshape(pairs, (BLOCK_ROWS, BLOCK_COLS, 2)))
        if PAIRS == 1:
            return even.to(COMPUTE), odd.to(COMPUTE)
        else:
            return odd.to(COMPUTE), even.to(COMPUTE)


@triton.jit
def bounded(gate, up, limit, offset, BOUNDED: tl.constexpr):
    if BOUNDED:
        up = near(up, limit)
        if BOUNDED != _LIMITS_VALUE:
            gate = tl.where(gate > limit, limit, gate)
        return gate, tl.where(offset == 0, up, up + offset)
    else:
        return gate, up


@triton.jit(launch_metadata=describe_launch)
def forward(
    gate_ptr,
    up_ptr,
    y_ptr,
    a: tl.float64,
    b: tl.float64,
    limit: tl.float64,
    offset: tl.float64,
    gate_cap: tl.float64,
    up_cap: tl.float64,
    rows,
    cols,
    gate_stride,
    up_stride,
    y_stride,
    VALUE: tl.constexpr,
    BOUNDED: tl.constexpr,
    CAPS: tl.constexpr,
    PAIRS: tl.constexpr,
    FLAT: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """y = f(gate) up"""
    FAST: tl.constexpr = y_ptr.dtype.element_ty.primitive_bitwidth == 16
    COMPUTE: tl.constexpr = tl.float64 if y_ptr.dtype.element_ty == tl.float64 else tl.float32
    row, first_col, col, mask, full = own_tile(rows, cols, FLAT, BLOCK_ROWS, BLOCK_COLS)
    gate, up = load_parts(
        gate_ptr, up_ptr, gate_stride, up_stride, rows, cols, row, first_col, col, mask, full,
        COMPUTE, PAIRS, FLAT, EVEN, BLOCK_ROWS, BLOCK_COLS,
    )  # fmt: skip
    limit = tl.full((), limit, COMPUTE)
    gate, up = bounded(gate, up, limit, tl.full((), offset, COMPUTE), BOUNDED)
    a, b = tl.full((), a, COMPUTE), tl.full((), b, COMPUTE)
    value = VALUE(gate, a, b, FAST)
    if BOUNDED == _LIMITS_VALUE:
        value = tl.where(value > limit, limit, value)
    if _GATE & CAPS:
        value *= softcap_value(gate, tl.full((), gate_cap, COMPUTE), b, FAST)
    if _UP & CAPS:
        up = softcap_value(up, tl.full((), up_cap, COMPUTE), b, FAST)
    y = value * up
    store(places(y_ptr, y_stride, row, first_col, col, FLAT), y, mask, full, EVEN)


@triton.jit(launch_metadata=describe_launch)
def backward(
    grad_ptr,
    gate_ptr,
    up_ptr,
    grad_gate_ptr,
    grad_up_ptr,
    y_ptr,
    a: tl.float64,
    b: tl.float64,
    limit: tl.float64,
    offset: tl.float64,
    gate_cap: tl.float64,
    up_cap: tl.float64,
    rows,
    cols,
    grad_stride,
    gate_stride,
    up_stride,
    grad_gate_stride,
    grad_up_stride,
    y_stride,
    VALUE: tl.constexpr,
    D1: tl.constexpr,
    MASKS: tl.constexpr,
    BOUNDED: tl.constexpr,
    CAPS: tl.constexpr,
    PAIRS: tl.constexpr,
    FLAT: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """grad_gate = grad up f'(gate), grad_up = grad f(gate); y = f(gate) up again if it has a place"""
    STORED: tl.constexpr = grad_gate_ptr.dtype.element_ty
    FAST: tl.constexpr = STORED.primitive_bitwidth == 16
    COMPUTE: tl.constexpr = tl.float64 if STORED.primitive_bitwidth == 64 else tl.float32
    row, first_col, col, mask, full = own_tile(rows, cols, FLAT, BLOCK_ROWS, BLOCK_COLS)
    gate, up = load_parts(
        gate_ptr, up_ptr, gate_stride, up_stride, rows, cols, row, first_col, col, mask, full,
        COMPUTE, PAIRS, FLAT, EVEN, BLOCK_ROWS, BLOCK_COLS,
    )  # fmt: skip
    grad = load(places(grad_ptr, grad_stride, row, first_col, col, FLAT), mask, full, COMPUTE, EVEN)
    a, b = tl.full((), a, COMPUTE), tl.full((), b, COMPUTE)
    limit = tl.full((), limit, COMPUTE)
    near_gate, factor = bounded(gate, up, limit, tl.full((), offset, COMPUTE), BOUNDED)
    slope = D1(near_gate, a, b, FAST)
    value = VALUE(near_gate, a, b, FAST)
    if _GATE & CAPS:
        cap = tl.full((), gate_cap, COMPUTE)
        capped = softcap_value(gate, cap, b, FAST)
        slope = slope * capped + value * softcap_d1(gate, cap, b, FAST)
        value *= capped
    if _UP & CAPS:
        factor = softcap_value(up, tl.full((), up_cap, COMPUTE), b, FAST)
    grad_gate = times(grad * factor, slope, MASKS)
    if BOUNDED == _LIMITS_VALUE:
        grad_gate = tl.where(value > limit, 0.0, grad_gate)
        value = tl.where(value > limit, limit, value)
    elif BOUNDED:
        grad_gate = tl.where(gate > limit, 0.0, grad_gate)
    if y_ptr is not None:
        store(places(y_ptr, y_stride, row, first_col, col, FLAT), value * factor, mask, full, EVEN)
    grad_up = grad * value
    if _UP & CAPS:
        grad_up *= softcap_d1(up, tl.full((), up_cap, COMPUTE), b, FAST)
    if BOUNDED:
        grad_up = tl.where(tl.abs(up) > limit, 0.0, grad_up)
    if PAIRS == 0:
        store(places(grad_gate_ptr, grad_gate_stride, row, first_col, col, FLAT), grad_gate, mask, full, EVEN)
        store(places(grad_up_ptr, grad_up_stride, row, first_col, col, FLAT), grad_up, mask, full, EVEN)
    else:
        if PAIRS == 1:
            pairs = tl.join(grad_gate.to(STORED), grad_up.to(STORED))
        else:
            pairs = tl.join(grad_up.to(STORED), grad_gate.to(STORED))
        wide_col, wide_mask = _pair_tile(row, first_col, rows, cols, BLOCK_COLS)
        pointers = places(grad_gate_ptr, grad_gate_stride, row, 2 * first_col, wide_col, FLAT)
        store(pointers, tl.reshape(pairs, (BLOCK_ROWS, 2 * BLOCK_COLS)), wide_mask, full, EVEN)


def gated(gating: Gating, input: Tensor, up: Tensor | None = None) -> Tensor:
    gate, linear = gate_and_up(gating, input, up)
    y = torch.empty_like(gate)
    formula = FORMULAS[gating.activation]
    if up is None and alternate(gating, input) and (planned := plan(as_pairs(gating, input), y)):
        in_x, in_y = planned.strides
        geometry = planned._replace(strides=(2 * in_x, 2 * in_x, in_y))
        _launch(forward, gating, geometry, pair_order(gating), (input, input, y), formula.value)
        return y
    geometry, inputs = backend._fit((gate, linear), (y,))
    _launch(forward, gating, geometry, HALVES, (*inputs, y), formula.value)
    return y


def gated_backward(
    gating: Gating, grad: Tensor, input: Tensor, up: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    return gradients(gating, grad, input, up, None)


def gradients(
    gating: Gating, grad: Tensor, input: Tensor, up: Tensor | None, y: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """What `gated_backward` says, and f(gate) up again, written to `y` if that is given, as dense as `grad` then is."""
    formula = FORMULAS[gating.activation]
    formulas = (formula.value, formula.d1, elementwise(gating.activation).masks)
    grad_input = torch.empty_like(input)
    grad_up = None if up is None else torch.empty_like(input)
    if up is None and alternate(gating, grad_input):
        planned, grad, input = _fit_pairs(gating, grad, input, grad_input)
        in_grad, in_x, in_grad_x = planned.strides
        geometry = planned._replace(strides=(in_grad, 2 * in_x, 2 * in_x, 2 * in_grad_x, 2 * in_grad_x, in_grad))
        tensors = (grad, input, input, grad_input, grad_input, y)
        _launch(backward, gating, geometry, pair_order(gating), tensors, *formulas)
        return grad_input, None
    grads = halves(gating, grad_input) if grad_up is None else (grad_input, grad_up)
    outputs = grads if y is None else (*grads, y)
    geometry, inputs = backend._fit((grad, *gate_and_up(gating, input, up)), outputs)
    strides = (*geometry.strides, 0)[:6]
    _launch(backward, gating, geometry._replace(strides=strides), HALVES, (*inputs, *outputs, None)[:6], *formulas)
    return grad_input, grad_up


def pair_order(gating: Gating) -> int:
    return GATE_EVEN if gating.gate_first else GATE_ODD


def alternate(gating: Gating, packed: Tensor) -> bool:
    """Whether gate and up alternate in memory, in whole pairs; a dimension of size 2 may be seen either way."""
    dim = gating.dim % packed.dim()
    others = (s for d, (s, n) in enumerate(zip(packed.stride(), packed.shape, strict=True)) if d != dim and n > 1)
    return (
        (gating.interleaved or packed.shape[dim] == 2) and packed.stride(dim) == 1 and all(s % 2 == 0 for s in others)
    )


def as_pairs(gating: Gating, packed: Tensor) -> Tensor:
    """A view as if each pair were one element, for its geometry only."""
    dim = gating.dim % packed.dim()
    shape, strides = list(packed.shape), [stride // 2 for stride in packed.stride()]
    shape[dim], strides[dim] = shape[dim] // 2, 1
    return packed.as_strided(shape, strides)


def _fit_pairs(gating: Gating, grad: Tensor, packed: Tensor, grad_packed: Tensor) -> tuple[Geometry, Tensor, Tensor]:
    """The geometry in pairs of grad, packed and its gradient, after copying the inputs that would have none."""
    out = as_pairs(gating, grad_packed)
    for copies_packed, copies_grad in ((False, False), (False, True), (True, False), (True, True)):
        if not copies_packed and not alternate(gating, packed):
            continue
        x = torch.empty_like(grad_packed).copy_(packed) if copies_packed else packed
        g = torch.empty_like(halves(gating, grad_packed)[0]).copy_(grad) if copies_grad else grad
        geometry = plan(g, as_pairs(gating, x), out)
        if geometry is not None:
            return geometry, g, x
    raise ValueError(f"a gradient of shape {tuple(grad.shape)} does not fit an input of shape {tuple(packed.shape)}")


def _launch(
    kernel: Any, gating: Gating, geometry: Geometry, pairs: int, tensors: tuple[Tensor | None, ...], *formulas: Any
) -> None:
    """Starts one program for each tile."""
    rows, cols, strides = geometry
    if rows == 0:
        return
    flat = rows == 1
    # Pairs take registers to come apart and together.
    x = tensors[0]
    assert x is not None
    block = hardware.TILE_BYTES // (2 if pairs == HALVES else 4) // x.element_size()
    block_rows, block_cols = tile_shape(rows, cols, block)
    programs = -(-rows // block_rows) * -(-cols // block_cols)
    if flat:  # unused, so they should not make further variants
        strides = (0,) * len(tensors)
    with hardware.guard(x.device):
        launch(kernel, (programs,))(
            *tensors, gating.a, gating.b, gating.limit, gating.offset, gating.gate_cap, gating.up_cap, rows, cols,
            *strides, *formulas, is_bounded(gating) * (1 + gating.limits_value), caps(gating), pairs, flat,
            cols % 16 == 0, block_rows, block_cols, num_warps=hardware.NUM_WARPS,
        )  # fmt: skip


def tile_shape(rows: int, cols: int, block: int) -> tuple[int, int]:
    """`block` elements of each operand: of one row where the row's length allows, as halves of long rows do."""
    if rows == 1:
        return 1, block
    block_cols = block
    while block_cols > backend._ROW_TILE and cols % block_cols:
        block_cols //= 2
    block_cols = min(block_cols, 1 << (cols - 1).bit_length())
    return block // block_cols, block_cols
