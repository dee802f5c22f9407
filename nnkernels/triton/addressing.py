"""Content addressing in Triton; what each function computes is told in `contracts/addressing.py`.

A program holds a memory in registers and takes its heads together, in blocks: all but the products with the memory
works on tensors of slots and heads, so that a reduction over the slots, which makes warps wait for one another, serves
every head of a block. Forward spreads the blocks over programs where there are few memories. Backward lets go of the
memory between its two products with it, and reads it again from the cache. Torch's operations take a memory that is too
large.

The products become columns of a tensor that was loaded, although no number of that is left: Triton's compiler gives a
tensor the layout of what it comes from, and one that came from the memory alone would have every thread of a slot take
every step of all heads.
"""

from __future__ import annotations

from typing import Any

import torch
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
_OF_HEADS = 32  # bytes of a thread, of a tensor of slots and heads
_WARPS = 8  # of a program, at most, for what it holds of a memory
_OF_WARP = tl.constexpr(256)  # slots, at most, of a column that is gathered within a warp
_FLOOR = tl.constexpr(FLOOR)


def content_addressing(operands: Operands, eps: float, where: Tensor) -> None:
    tiled = tiling(operands.memory)
    if tiled is None:
        return reference.content_addressing(operands, eps, where)
    batch, heads, _ = where.shape
    block = min(triton.next_power_of_2(heads), tiled[2])
    while block > 1 and batch * triton.cdiv(heads, block // 2) <= hardware.multiprocessors(where.device):
        block //= 2
    with hardware.guard(where.device):
        launch(forward, (batch, triton.cdiv(heads, block)))(
            *operands, where, heads, *sizes(operands), *strides(operands), *where.stride(), eps,
            operands.gate is not None, operands.shift is not None, operands.sharpness is not None,
            *tiled[:2], block, **_options(operands.memory, tiled[3]),
        )  # fmt: skip


def content_addressing_backward(grad: Tensor, operands: Operands, eps: float, gradients: Gradients) -> None:
    tiled = tiling(operands.memory)
    if tiled is None:
        return reference.content_addressing_backward(grad, operands, eps, gradients)
    batch, heads, _ = grad.shape
    block = min(triton.next_power_of_2(heads), tiled[2])
    one = heads <= block
    with hardware.guard(grad.device):
        launch(backward, (batch,))(
            *operands, grad, *gradients, heads, *sizes(operands), *strides(operands), *grad.stride(),
            *strides(gradients), eps,
            operands.gate is not None, operands.shift is not None, operands.sharpness is not None,
            *(gradient is not None for gradient in gradients), *tiled[:2], block, one,
            num_warps=tiled[3],
        )  # fmt: skip


def tiling(memory: Tensor) -> tuple[int, int, int, int] | None:
    """Slots and numbers of a program's tile, the most heads of a block, and warps; None if the tile is too large."""
    if not fits_on_chip(memory):
        return None
    slots, size = (triton.next_power_of_2(length) for length in memory.shape[1:])
    column = slots * max(4, memory.element_size())
    of_memory, of_head = column * size // (32 * _EACH), column // (32 * _OF_HEADS)
    warps = max(1, min(_WARPS, of_memory), min(16, of_head))
    return slots, size, max(1, warps * 32 * _OF_HEADS // column), warps


def _options(memory: Tensor, warps: int) -> dict[str, Any]:
    """Of a forward launch: where memories are large, as many registers as let a multiprocessor hold two programs, one
    of which computes while the other reads. Numbers of 64 bits and longer slots need more, and so does backward: on an
    H200 it takes 202 us for 1024 memories of 256 x 64 and four heads, and 269 with so few."""
    _, slots, size = memory.shape
    bounded = warps == _WARPS and memory.element_size() < 8 and slots <= 256 and size <= 64
    if not bounded or memory.device.type != "cuda" or torch.version.hip is not None:
        return {"num_warps": warps}
    return {"num_warps": warps, "maxnreg": 2**16 // (2 * 32 * warps)}


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
    """Of z + lo along the slots, for each head."""
    z = tl.where(here, z, -float("inf"))
    p, _, s, t = exp_parts(z - tl.max(z, 0, keep_dims=True), lo, FAST)
    e = tl.where(here, p * s * t, 0.0)
    return divide(e, tl.sum(e, 0, keep_dims=True), FAST)


@triton.jit
def _softmax_backward(y, grad):
    return y * (grad - tl.sum(y * grad, 0, keep_dims=True))


@triton.jit
def _ahead(rows, steps, slots):
    """What stands so many slots ahead of each, either way round; the last slot is beside the first."""
    SLOTS: tl.constexpr = rows.shape[0]
    HEADS: tl.constexpr = rows.shape[1]
    come_from = (tl.arange(0, SLOTS)[:, None] + slots + steps % slots) % slots
    if SLOTS <= _OF_WARP:
        return tl.gather(rows, come_from + tl.zeros_like(rows).to(tl.int32), 0)
    else:
        # Of two dimensions, a column would be gathered within one warp, in steps that grow as its length squared.
        flat = tl.reshape(come_from * HEADS + tl.arange(0, HEADS)[None, :], (SLOTS * HEADS,))
        return tl.reshape(tl.gather(tl.reshape(rows, (SLOTS * HEADS,)), flat, 0), (SLOTS, HEADS))


@triton.jit
def _memory(
    memory_ptr, batch_step, slot_step, col_step, first, slots, size,
    SLOTS: tl.constexpr, SIZE: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """This program's memory from slot `first` on; KEEP says what becomes of it in the cache."""
    slot, place = first + tl.arange(0, SLOTS)[:, None], tl.arange(0, SIZE)[None, :]
    at = tl.program_id(0).to(tl.int64) * batch_step + slot.to(tl.int64) * slot_step + place * col_step
    mask = (slot < slots) & (place < size)
    memory = tl.load(memory_ptr + at, mask=mask, other=0.0, eviction_policy=KEEP)
    return memory.to(compute_type(memory_ptr.dtype))


@triton.jit
def _inverse_length(rows, eps):
    return 1.0 / tl.sqrt(tl.sum(rows * rows, 1, keep_dims=True) + eps)


@triton.jit
def _key(key_ptr, head, key_batch, key_head, key_col, size, eps, SIZE: tl.constexpr):
    """A head's key of length 1, and one over its length."""
    place = tl.arange(0, SIZE)[None, :]
    at = tl.program_id(0).to(tl.int64) * key_batch + tl.cast(head, tl.int64) * key_head + place * key_col
    key = tl.load(key_ptr + at, mask=place < size, other=0.0).to(compute_type(key_ptr.dtype))
    inverse = _inverse_length(key, eps)
    return key * inverse, inverse


@triton.jit
def _block(first, heads, slots, SLOTS: tl.constexpr, HEADS: tl.constexpr):
    """The heads of a block, which of them there are, and which slots."""
    head = first + tl.arange(0, HEADS)[None, :]
    return head.to(tl.int64), head < heads, tl.arange(0, SLOTS)[:, None] < slots


@triton.jit
def _weighting(
    memory, inverse, start, first, heads,
    key_ptr, strength_ptr, gate_ptr, previous_ptr, shift_ptr, sharpness_ptr, slots, size, width,
    key_batch, key_head, key_col, strength_batch, strength_head, gate_batch, gate_head,
    previous_batch, previous_head, previous_col, shift_batch, shift_head, shift_col, sharpness_batch, sharpness_head,
    eps, GATE: tl.constexpr, SHIFT: tl.constexpr, SHARPNESS: tl.constexpr,
    SLOTS: tl.constexpr, SIZE: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """Each head's weighting of the slots, and the intermediate values that backward needs.

    `start` is any loaded tensor of slots and heads, 0 for heads that are not there.
    """
    COMPUTE: tl.constexpr = memory.dtype
    FAST: tl.constexpr = is_fast(key_ptr.dtype)
    batch = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, SLOTS)[:, None]
    head, mine, here = _block(first, heads, slots, SLOTS, HEADS)
    strength_at = strength_ptr + batch * strength_batch + head * strength_head
    strength = tl.load(strength_at, mask=mine, other=0.0).to(COMPUTE)
    cosine = start
    for number in range(first, tl.minimum(first + HEADS, heads)):
        key, _ = _key(key_ptr, number, key_batch, key_head, key_col, size, eps, SIZE)
        cosine = tl.where(head == number, tl.sum(memory * key, 1, keep_dims=True), cosine)
    cosine *= inverse
    content = _softmax(strength * cosine, None, here, FAST)
    mixed = content
    before = content
    gate = strength
    if GATE:
        gate = tl.load(gate_ptr + batch * gate_batch + head * gate_head, mask=mine, other=0.0).to(COMPUTE)
        before_at = previous_ptr + batch * previous_batch + head * previous_head + slot * previous_col
        before = tl.load(before_at, mask=mine & here, other=0.0).to(COMPUTE)
        mixed = before + gate * (content - before)
    turned = mixed
    if SHIFT:
        turned = tl.zeros_like(mixed)
        for k in range(width):
            share_at = shift_ptr + batch * shift_batch + head * shift_head + k * shift_col
            share = tl.load(share_at, mask=mine, other=0.0).to(COMPUTE)
            turned = tl.fma(tl.zeros_like(mixed) + share, _ahead(mixed, width // 2 - k, slots), turned)
    where = turned
    logs = turned
    lost = turned
    sharpness = strength
    if SHARPNESS:
        sharpness_at = sharpness_ptr + batch * sharpness_batch + head * sharpness_head
        sharpness = tl.load(sharpness_at, mask=mine, other=0.0).to(COMPUTE)
        logs, lost = _log(tl.where(turned < _FLOOR, tl.full(turned.shape, _FLOOR, COMPUTE), turned), FAST)
        powers = sharpness * logs
        spread = tl.zeros_like(logs) + sharpness
        where = _softmax(powers, tl.fma(spread, lost, tl.fma(spread, logs, -powers)), here, FAST)
    return strength, cosine, content, gate, before, mixed, turned, sharpness, logs, lost, where


@triton.jit(do_not_specialize=["heads", "slots", "width"])
def forward(
    memory_ptr, key_ptr, strength_ptr, gate_ptr, previous_ptr, shift_ptr, sharpness_ptr, where_ptr,
    heads, slots, size, width, memory_batch, memory_slot, memory_col, key_batch, key_head, key_col,
    strength_batch, strength_head, gate_batch, gate_head, previous_batch, previous_head, previous_col,
    shift_batch, shift_head, shift_col, sharpness_batch, sharpness_head, where_batch, where_head, where_col,
    eps: tl.float64, GATE: tl.constexpr, SHIFT: tl.constexpr, SHARPNESS: tl.constexpr,
    SLOTS: tl.constexpr, SIZE: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(1) * HEADS
    COMPUTE: tl.constexpr = compute_type(memory_ptr.dtype)
    eps = tl.full((), eps, COMPUTE)
    memory = _memory(memory_ptr, memory_batch, memory_slot, memory_col, 0, slots, size, SLOTS, SIZE, "")
    inverse = _inverse_length(memory, eps)
    head, mine, here = _block(first, heads, slots, SLOTS, HEADS)
    slot = tl.arange(0, SLOTS)[:, None]
    where_at = tl.program_id(0).to(tl.int64) * where_batch + head * where_head + slot * where_col
    start = tl.load(where_ptr + where_at, mask=head < 0, other=0.0).to(COMPUTE)
    _, _, _, _, _, _, _, _, _, _, where = _weighting(
        memory, inverse, start, first, heads, key_ptr, strength_ptr, gate_ptr, previous_ptr, shift_ptr, sharpness_ptr,
        slots, size, width, key_batch, key_head, key_col, strength_batch, strength_head, gate_batch, gate_head,
        previous_batch, previous_head, previous_col, shift_batch, shift_head, shift_col,
        sharpness_batch, sharpness_head, eps, GATE, SHIFT, SHARPNESS, SLOTS, SIZE, HEADS,
    )  # fmt: skip
    store_inside(where_ptr + where_at, where, mine & here)


@triton.jit(do_not_specialize=["heads", "slots", "width"])
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
    SLOTS: tl.constexpr, SIZE: tl.constexpr, HEADS: tl.constexpr, ONE: tl.constexpr,
):  # fmt: skip
    """ONE says that all heads are one block."""
    COMPUTE: tl.constexpr = compute_type(memory_ptr.dtype)
    batch = tl.program_id(0).to(tl.int64)
    eps = tl.full((), eps, COMPUTE)
    slot, place = tl.arange(0, SLOTS)[:, None], tl.arange(0, SIZE)[None, :]
    for_memory = tl.zeros((SLOTS, SIZE), COMPUTE)
    for first in range(0, HEADS if ONE else heads, HEADS):
        memory = _memory(memory_ptr, memory_batch, memory_slot, memory_col, 0, slots, size, SLOTS, SIZE, "evict_last")
        inverse = _inverse_length(memory, eps)
        head, mine, here = _block(first, heads, slots, SLOTS, HEADS)
        grad_at = grad_ptr + batch * grad_batch + head * grad_head + slot * grad_col
        grad = tl.load(grad_at, mask=mine & here, other=0.0).to(COMPUTE)
        strength, cosine, content, gate, before, mixed, turned, sharpness, logs, lost, where = _weighting(
            memory, inverse, grad, first, heads,
            key_ptr, strength_ptr, gate_ptr, previous_ptr, shift_ptr, sharpness_ptr,
            slots, size, width, key_batch, key_head, key_col, strength_batch, strength_head, gate_batch, gate_head,
            previous_batch, previous_head, previous_col, shift_batch, shift_head, shift_col,
            sharpness_batch, sharpness_head, eps, GATE, SHIFT, SHARPNESS, SLOTS, SIZE, HEADS,
        )  # fmt: skip
        if SHARPNESS:
            grad = _softmax_backward(where, grad)
            if GRAD_SHARPNESS:
                at = batch * grad_sharpness_batch + head * grad_sharpness_head
                # The gradients' sum is 0, so that any number may be taken from the logarithms: the largest.
                logs -= tl.max(tl.where(here, logs, -float("inf")), 0, keep_dims=True)
                along_logs = tl.where(here, tl.fma(grad, logs, grad * lost), 0.0)
                store_inside(grad_sharpness_ptr + at, tl.sum(along_logs, 0, keep_dims=True), mine)
            grad = tl.where(turned < _FLOOR, 0.0, sharpness * grad / turned)
            grad = tl.where(here, grad, 0.0)
        if SHIFT:
            for_turned = grad
            grad = tl.zeros_like(for_turned)
            for k in range(width):
                came = tl.where(here, _ahead(for_turned, k - width // 2, slots), 0.0)
                if GRAD_SHIFT:
                    at = batch * grad_shift_batch + head * grad_shift_head + k * grad_shift_col
                    store_inside(grad_shift_ptr + at, tl.sum(came * mixed, 0, keep_dims=True), mine)
                share_at = shift_ptr + batch * shift_batch + head * shift_head + k * shift_col
                share = tl.load(share_at, mask=mine, other=0.0).to(COMPUTE)
                grad = tl.fma(tl.zeros_like(grad) + share, came, grad)
        if GATE:
            if GRAD_GATE:
                at = batch * grad_gate_batch + head * grad_gate_head
                store_inside(grad_gate_ptr + at, tl.sum(grad * (content - before), 0, keep_dims=True), mine)
            if GRAD_PREVIOUS:
                at = batch * grad_previous_batch + head * grad_previous_head + slot * grad_previous_col
                store_inside(grad_previous_ptr + at, (1.0 - gate) * grad, mine & here)
            grad *= gate
        grad = _softmax_backward(content, grad)
        total = tl.sum(grad * cosine, 0, keep_dims=True)
        if GRAD_STRENGTH:
            at = batch * grad_strength_batch + head * grad_strength_head
            store_inside(grad_strength_ptr + at, total, mine)
        pull = grad * strength * inverse
        total *= strength
        along = tl.sum(pull * cosine, 1, keep_dims=True)
        # Were it plain that this is 0, the addresses of above would be kept in registers.
        again = tl.minimum(heads, 0)
        memory = _memory(
            memory_ptr, memory_batch, memory_slot, memory_col, again, slots, size, SLOTS, SIZE, "evict_first"
        )
        if GRAD_KEY:
            for number in range(first, tl.minimum(first + HEADS, heads)):
                key, key_inverse = _key(key_ptr, number, key_batch, key_head, key_col, size, eps, SIZE)
                of_head = tl.sum(tl.where(head == number, pull, 0.0), 1, keep_dims=True)
                along_key = tl.sum(tl.where(head == number, total, 0.0), 1, keep_dims=True)
                for_key = key_inverse * (tl.sum(memory * of_head, 0, keep_dims=True) - along_key * key)
                key_at = batch * grad_key_batch + tl.cast(number, tl.int64) * grad_key_head + place * grad_key_col
                store_inside(grad_key_ptr + key_at, for_key, place < size)
        if GRAD_MEMORY:
            for_memory -= memory * _inverse_length(memory, eps) * along
            for number in range(first, tl.minimum(first + HEADS, heads)):
                key, _ = _key(key_ptr, number, key_batch, key_head, key_col, size, eps, SIZE)
                for_memory += tl.sum(tl.where(head == number, pull, 0.0), 1, keep_dims=True) * key
    if GRAD_MEMORY:
        at = batch * grad_memory_batch + slot.to(tl.int64) * grad_memory_slot + place * grad_memory_col
        store_inside(grad_memory_ptr + at, for_memory, (slot < slots) & (place < size))
