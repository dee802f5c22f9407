"""Content addressing in Triton; what each function computes is told in `contracts/addressing.py`.

A program holds a memory in registers: forward for one head, backward for all heads in turn, whose gradients it sums;
backward has the memory's gradient beside it. A memory that is too large for that is left to torch's operations.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..contracts.addressing import FLOOR, Gradients, Operands, fits_on_chip
from ..recording import launch
from ..reference import addressing as reference
from . import hardware
from .math import LN2_DOUBLE, LN2_FLOAT, compute_type, divide, exp_parts, is_fast, log1p_ratio
from .tiles import store_inside

_EACH = 64  # bytes of a thread, of a memory as it is computed with
_FLOOR = tl.constexpr(FLOOR)


def content_addressing(operands: Operands, eps: float, where: Tensor) -> None:
    tiled = tiling(operands.memory)
    if tiled is None:
        return reference.content_addressing(operands, eps, where)
    with hardware.guard(where.device):
        launch(forward, (len(where), where.shape[1]))(
            *operands, where, *sizes(operands), *strides(operands), *where.stride(), eps,
            operands.gate is not None, operands.shift is not None, operands.sharpness is not None,
            *tiled[:2], num_warps=tiled[2],
        )  # fmt: skip


def content_addressing_backward(grad: Tensor, operands: Operands, eps: float, gradients: Gradients) -> None:
    tiled = tiling(operands.memory)
    if tiled is None:
        return reference.content_addressing_backward(grad, operands, eps, gradients)
    with hardware.guard(grad.device):
        launch(backward, (len(grad),))(
            *operands, grad, *gradients, operands.key.shape[1], *sizes(operands), *strides(operands), *grad.stride(),
            *strides(gradients), eps,
            operands.gate is not None, operands.shift is not None, operands.sharpness is not None,
            *(gradient is not None for gradient in gradients), *tiled[:2], num_warps=tiled[2],
        )  # fmt: skip


def tiling(memory: Tensor) -> tuple[int, int, int] | None:
    """Slots and numbers of a program's tile, and its warps; None if the tile is too large."""
    if not fits_on_chip(memory):
        return None
    slots, size = (triton.next_power_of_2(length) for length in memory.shape[1:])
    return slots, size, max(1, min(16, slots * size * max(4, memory.element_size()) // (32 * _EACH)))


def sizes(operands: Operands) -> tuple[int, int, int]:
    """Slots, numbers of a slot, and shares of the shift."""
    _, slots, size = operands.memory.shape
    return slots, size, 1 if operands.shift is None else operands.shift.shape[2]


def strides(tensors: Operands | Gradients) -> list[int]:
    """Three for each that has three dimensions, two for the others; 0 for what is not there."""
    found: list[int] = []
    for name, tensor in zip(Operands._fields, tensors, strict=True):
        dims = 2 if name in ("strength", "gate", "sharpness") else 3
        found += [0] * dims if tensor is None else tensor.stride()
    return found


@triton.jit
def _log(x, FAST: tl.constexpr):
    """For a normal x > 0, with what rounding took from the sum; infinity and NaN give NaN."""
    if x.dtype == tl.float64:
        HIGH: tl.constexpr = LN2_DOUBLE[0]
        LOW: tl.constexpr = LN2_DOUBLE[1]
        bits = x.to(tl.int64, bitcast=True)
        exponent = ((bits >> 52) - 1023).to(tl.float64)
        above = ((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).to(tl.float64, bitcast=True) - 1.0
    else:
        HIGH: tl.constexpr = LN2_FLOAT[0]  # type: ignore[no-redef]
        LOW: tl.constexpr = LN2_FLOAT[1]  # type: ignore[no-redef]
        bits = x.to(tl.int32, bitcast=True)
        exponent = ((bits >> 23) - 127).to(tl.float32)
        above = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True) - 1.0
    whole = exponent * HIGH
    rest = tl.fma(exponent, tl.full(x.shape, LOW, x.dtype), above * log1p_ratio(above, FAST))
    log = whole + rest
    return log + (x - x), (whole - log) + rest


@triton.jit
def _softmax(z, lo, here, FAST: tl.constexpr):
    """Of z + lo along a memory's slots."""
    z = tl.where(here, z, -float("inf"))
    p, _, s, t = exp_parts(z - tl.max(z, 0), lo, FAST)
    e = tl.where(here, p * s * t, 0.0)
    return divide(e, tl.sum(e, 0), FAST)


@triton.jit
def _turn(row, shift_at, shift_col, slots, width, BACK: tl.constexpr, SLOTS: tl.constexpr):
    """The sum of copies of a row, each as far ahead, or back, as its share says; the last slot is beside the first."""
    slot = tl.arange(0, SLOTS)
    reach = width // 2
    turned = tl.zeros_like(row)
    for k in range(width):
        ahead = (reach - k if BACK else k - reach) % slots  # of either sign
        come_from = slot + slots - ahead
        share = tl.load(shift_at + k * shift_col).to(row.dtype)
        turned = tl.fma(tl.zeros_like(row) + share, tl.gather(row, come_from % slots, 0), turned)
    return turned


@triton.jit
def _memory(memory_ptr, batch_step, slot_step, col_step, slots, size, eps, SLOTS: tl.constexpr, SIZE: tl.constexpr):
    """This program's memory and one over the lengths of its slots."""
    COMPUTE: tl.constexpr = compute_type(memory_ptr.dtype)
    slot, place = tl.arange(0, SLOTS)[:, None], tl.arange(0, SIZE)[None, :]
    at = tl.program_id(0).to(tl.int64) * batch_step + slot.to(tl.int64) * slot_step + place * col_step
    memory = tl.load(memory_ptr + at, mask=(slot < slots) & (place < size), other=0.0).to(COMPUTE)
    return memory, 1.0 / tl.sqrt(tl.sum(memory * memory, 1) + eps)


@triton.jit
def _head(
    memory, inverse, head, key_ptr, strength_ptr, gate_ptr, previous_ptr, shift_ptr, sharpness_ptr, slots, size, width,
    key_batch, key_head, key_col, strength_batch, strength_head, gate_batch, gate_head,
    previous_batch, previous_head, previous_col, shift_batch, shift_head, shift_col, sharpness_batch, sharpness_head,
    eps, GATE: tl.constexpr, SHIFT: tl.constexpr, SHARPNESS: tl.constexpr, SLOTS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """A head's weighting of the slots, and the intermediate values that backward needs."""
    COMPUTE: tl.constexpr = memory.dtype
    FAST: tl.constexpr = is_fast(key_ptr.dtype)
    batch = tl.program_id(0).to(tl.int64)
    slot, place = tl.arange(0, SLOTS), tl.arange(0, SIZE)
    here = slot < slots
    key_at = key_ptr + batch * key_batch + head * key_head + place * key_col
    key = tl.load(key_at, mask=place < size, other=0.0).to(COMPUTE)
    key_inverse = 1.0 / tl.sqrt(tl.sum(key * key, 0) + eps)
    key *= key_inverse
    strength = tl.load(strength_ptr + batch * strength_batch + head * strength_head).to(COMPUTE)
    cosine = tl.sum(memory * key[None, :], 1) * inverse
    content = _softmax(strength * cosine, None, here, FAST)
    mixed = content
    before = content
    gate = strength
    if GATE:
        gate = tl.load(gate_ptr + batch * gate_batch + head * gate_head).to(COMPUTE)
        before_at = previous_ptr + batch * previous_batch + head * previous_head + slot * previous_col
        before = tl.load(before_at, mask=here, other=0.0).to(COMPUTE)
        mixed = before + gate * (content - before)
    turned = mixed
    shift_at = key_ptr  # of no use
    if SHIFT:
        shift_at = shift_ptr + batch * shift_batch + head * shift_head
        turned = _turn(mixed, shift_at, shift_col, slots, width, False, SLOTS)
    where = turned
    logs = turned
    lost = turned
    sharpness = strength
    if SHARPNESS:
        sharpness = tl.load(sharpness_ptr + batch * sharpness_batch + head * sharpness_head).to(COMPUTE)
        logs, lost = _log(tl.where(turned < _FLOOR, tl.full(turned.shape, _FLOOR, COMPUTE), turned), FAST)
        powers = sharpness * logs
        rounded = tl.fma(tl.zeros_like(logs) + sharpness, logs, -powers)
        where = _softmax(powers, tl.fma(tl.zeros_like(logs) + sharpness, lost, rounded), here, FAST)
    return (
        key, key_inverse, strength, cosine, content, gate, before, mixed, shift_at, turned, sharpness, logs, lost,
        where, here,
    )  # fmt: skip


@triton.jit(do_not_specialize=["slots", "size", "width"])
def forward(
    memory_ptr, key_ptr, strength_ptr, gate_ptr, previous_ptr, shift_ptr, sharpness_ptr, where_ptr,
    slots, size, width, memory_batch, memory_slot, memory_col, key_batch, key_head, key_col,
    strength_batch, strength_head, gate_batch, gate_head, previous_batch, previous_head, previous_col,
    shift_batch, shift_head, shift_col, sharpness_batch, sharpness_head, where_batch, where_head, where_col,
    eps: tl.float64, GATE: tl.constexpr, SHIFT: tl.constexpr, SHARPNESS: tl.constexpr,
    SLOTS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    eps = tl.full((), eps, compute_type(memory_ptr.dtype))
    memory, inverse = _memory(memory_ptr, memory_batch, memory_slot, memory_col, slots, size, eps, SLOTS, SIZE)
    _, _, _, _, _, _, _, _, _, _, _, _, _, where, here = _head(
        memory, inverse, head, key_ptr, strength_ptr, gate_ptr, previous_ptr, shift_ptr, sharpness_ptr,
        slots, size, width, key_batch, key_head, key_col, strength_batch, strength_head, gate_batch, gate_head,
        previous_batch, previous_head, previous_col, shift_batch, shift_head, shift_col,
        sharpness_batch, sharpness_head, eps, GATE, SHIFT, SHARPNESS, SLOTS, SIZE,
    )  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * where_batch + head * where_head + tl.arange(0, SLOTS) * where_col
    tl.store(where_ptr + at, where.to(where_ptr.dtype.element_ty), mask=here)


@triton.jit
def _softmax_backward(y, grad):
    return y * (grad - tl.sum(y * grad, 0))


@triton.jit(do_not_specialize=["heads", "slots", "size", "width"])
def backward(
    memory_ptr, key_ptr, strength_ptr, gate_ptr, previous_ptr, shift_ptr, sharpness_ptr, grad_ptr,
    grad_memory_ptr, grad_key_ptr, grad_strength_ptr, grad_gate_ptr, grad_previous_ptr, grad_shift_ptr,
    grad_sharpness_ptr, heads, slots, size, width,
    memory_batch, memory_slot, memory_col, key_batch, key_head, key_col,
    strength_batch, strength_head, gate_batch, gate_head, previous_batch, previous_head, previous_col,
    shift_batch, shift_head, shift_col, sharpness_batch, sharpness_head, grad_batch, grad_head, grad_col,
    grad_memory_batch, grad_memory_slot, grad_memory_col, grad_key_batch, grad_key_head, grad_key_col,
    grad_strength_batch, grad_strength_head, grad_gate_batch, grad_gate_head,
    grad_previous_batch, grad_previous_head, grad_previous_col,
    grad_shift_batch, grad_shift_head, grad_shift_col, grad_sharpness_batch, grad_sharpness_head,
    eps: tl.float64, GATE: tl.constexpr, SHIFT: tl.constexpr, SHARPNESS: tl.constexpr,
    GRAD_MEMORY: tl.constexpr, GRAD_KEY: tl.constexpr, GRAD_STRENGTH: tl.constexpr, GRAD_GATE: tl.constexpr,
    GRAD_PREVIOUS: tl.constexpr, GRAD_SHIFT: tl.constexpr, GRAD_SHARPNESS: tl.constexpr,
    SLOTS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    COMPUTE: tl.constexpr = compute_type(memory_ptr.dtype)
    batch = tl.program_id(0).to(tl.int64)
    eps = tl.full((), eps, COMPUTE)
    slot, place = tl.arange(0, SLOTS), tl.arange(0, SIZE)
    memory, inverse = _memory(memory_ptr, memory_batch, memory_slot, memory_col, slots, size, eps, SLOTS, SIZE)
    for_memory = tl.zeros_like(memory)
    along = tl.zeros_like(inverse)
    for number in range(heads):
        head = tl.cast(number, tl.int64)
        (key, key_inverse, strength, cosine, content, gate, before, mixed, shift_at, turned, sharpness, logs, lost,
         where, here) = _head(
            memory, inverse, head, key_ptr, strength_ptr, gate_ptr, previous_ptr, shift_ptr, sharpness_ptr,
            slots, size, width, key_batch, key_head, key_col, strength_batch, strength_head, gate_batch, gate_head,
            previous_batch, previous_head, previous_col, shift_batch, shift_head, shift_col,
            sharpness_batch, sharpness_head, eps, GATE, SHIFT, SHARPNESS, SLOTS, SIZE,
        )  # fmt: skip
        grad_at = grad_ptr + batch * grad_batch + head * grad_head + slot * grad_col
        grad = tl.load(grad_at, mask=here, other=0.0).to(COMPUTE)
        if SHARPNESS:
            grad = _softmax_backward(where, grad)
            if GRAD_SHARPNESS:
                at = batch * grad_sharpness_batch + head * grad_sharpness_head
                # The gradients' sum is 0, so that any number may be taken from the logarithms: the largest.
                logs -= tl.max(tl.where(here, logs, -float("inf")), 0)
                store_inside(
                    grad_sharpness_ptr + at, tl.sum(tl.where(here, tl.fma(grad, logs, grad * lost), 0.0), 0), None
                )
            grad = tl.where(turned < _FLOOR, 0.0, sharpness * grad / turned)
            grad = tl.where(here, grad, 0.0)
        if SHIFT:
            if GRAD_SHIFT:
                for k in range(width):
                    come_from = slot + slots - (k - width // 2) % slots
                    total = tl.sum(grad * tl.gather(mixed, come_from % slots, 0), 0)
                    at = batch * grad_shift_batch + head * grad_shift_head + k * grad_shift_col
                    store_inside(grad_shift_ptr + at, total, None)
            grad = tl.where(here, _turn(grad, shift_at, shift_col, slots, width, True, SLOTS), 0.0)
        if GATE:
            if GRAD_GATE:
                at = batch * grad_gate_batch + head * grad_gate_head
                store_inside(grad_gate_ptr + at, tl.sum(grad * (content - before), 0), None)
            if GRAD_PREVIOUS:
                at = batch * grad_previous_batch + head * grad_previous_head + slot * grad_previous_col
                for_before = ((1.0 - gate) * grad).to(grad_previous_ptr.dtype.element_ty)
                tl.store(grad_previous_ptr + at, for_before, mask=here)
            grad *= gate
        grad = _softmax_backward(content, grad)
        total = tl.sum(grad * cosine, 0)
        if GRAD_STRENGTH:
            store_inside(grad_strength_ptr + batch * grad_strength_batch + head * grad_strength_head, total, None)
        grad *= strength
        if GRAD_KEY:
            for_key = tl.sum(memory * (grad * inverse)[:, None], 0)
            for_key = (key_inverse * (for_key - strength * total * key)).to(grad_key_ptr.dtype.element_ty)
            at = batch * grad_key_batch + head * grad_key_head + place * grad_key_col
            tl.store(grad_key_ptr + at, for_key, mask=place < size)
        along += grad * cosine
        for_memory += grad[:, None] * key[None, :]
    if GRAD_MEMORY:
        slot_, place_ = slot[:, None], place[None, :]
        for_memory = inverse[:, None] * (for_memory - memory * (inverse * along)[:, None])
        at = batch * grad_memory_batch + slot_.to(tl.int64) * grad_memory_slot + place_ * grad_memory_col
        mask = (slot_ < slots) & (place_ < size)
        tl.store(grad_memory_ptr + at, for_memory.to(grad_memory_ptr.dtype.element_ty), mask=mask)
