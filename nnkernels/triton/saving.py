"""Derivatives kept in a few bits: see `contracts/saving.py`, whose functions these are in Triton."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..contracts.saving import Levels
from ..recording import launch
from ..registry import elementwise
from . import activations, hardware
from .packing import pack, unpack
from .tiles import times

# On an H100 one 16-byte load for each thread and many small programs hide the exchange that packing takes: four loads
# reached 0.85 of the copy's bandwidth for silu's codes, one reaches 0.93.
_NUM_WARPS = 4
_TILE_BYTES = 2048


def quantised_forward(name: str, x: Tensor, a: float, b: float, levels: Levels, y: Tensor) -> Tensor:
    packed = torch.empty(-(-x.numel() * levels.bits // 8), dtype=torch.uint8, device=x.device)
    formula = activations.FORMULAS[name]
    _launch(_forward, x, y, packed, levels, a, b, formula.value, formula.d1)
    return packed


def quantised_backward(name: str, grad: Tensor, packed: Tensor, levels: Levels) -> Tensor:
    grad_x = torch.empty_like(grad)
    _launch(_backward, grad, grad_x, packed, levels, elementwise(name).masks)
    return grad_x


def _launch(kernel: Any, source: Tensor, target: Tensor, packed: Tensor, levels: Levels, *more: Any) -> None:
    count = source.numel()
    if count == 0:
        return
    block = _TILE_BYTES // source.element_size()
    with hardware.guard(source.device):
        launch(kernel, (-(-count // block),))(
            source, target, packed, levels.low, levels.high, count, *more, levels.bits, block, num_warps=_NUM_WARPS
        )


@triton.jit
def _forward(
    x_ptr,
    y_ptr,
    packed_ptr,
    low: tl.float64,
    high: tl.float64,
    count,
    a: tl.float64,
    b: tl.float64,
    VALUE: tl.constexpr,
    D1: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    FAST: tl.constexpr = x_ptr.dtype.element_ty.primitive_bitwidth == 16
    COMPUTE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    PER_BYTE: tl.constexpr = 8 // BITS
    first = tl.program_id(0).to(tl.int64) * BLOCK
    left = tl.minimum(count - first, BLOCK).to(tl.int32)
    at = tl.arange(0, BLOCK)
    byte_at = tl.arange(0, BLOCK // PER_BYTE)
    a, b = tl.full((), a, COMPUTE), tl.full((), b, COMPUTE)
    low, high = tl.full((), low, COMPUTE), tl.full((), high, COMPUTE)
    if left == BLOCK:
        x = tl.load(x_ptr + first + at).to(COMPUTE)
        tl.store(y_ptr + first + at, VALUE(x, a, b, FAST).to(y_ptr.dtype.element_ty))
        byte = _packed(D1(x, a, b, FAST), low, high, BITS, BLOCK)
        tl.store(packed_ptr + first // PER_BYTE + byte_at, byte)
    else:
        x = tl.load(x_ptr + first + at, mask=at < left, other=0.0).to(COMPUTE)
        tl.store(y_ptr + first + at, VALUE(x, a, b, FAST).to(y_ptr.dtype.element_ty), mask=at < left)
        byte = _packed(tl.where(at < left, D1(x, a, b, FAST), low), low, high, BITS, BLOCK)
        tl.store(packed_ptr + first // PER_BYTE + byte_at, byte, mask=byte_at * PER_BYTE < left)


@triton.jit
def _packed(slope, low, high, BITS: tl.constexpr, BLOCK: tl.constexpr):
    MOST: tl.constexpr = (1 << BITS) - 1
    if BITS == 1:
        code = (slope != low).to(tl.int32)
    else:
        level = (slope - low) * (MOST / (high - low)) + 0.5
        code = tl.where(level >= MOST, MOST, tl.where(level >= 0, level, 0.0)).to(tl.int32)
    return pack(code, BITS, 8, BLOCK).to(tl.uint8)


@triton.jit
def _backward(
    grad_ptr,
    grad_x_ptr,
    packed_ptr,
    low: tl.float64,
    high: tl.float64,
    count,
    MASKS: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    COMPUTE: tl.constexpr = tl.float64 if grad_ptr.dtype.element_ty == tl.float64 else tl.float32
    PER_BYTE: tl.constexpr = 8 // BITS
    first = tl.program_id(0).to(tl.int64) * BLOCK
    left = tl.minimum(count - first, BLOCK).to(tl.int32)
    at = tl.arange(0, BLOCK)
    byte_at = tl.arange(0, BLOCK // PER_BYTE)
    low, high = tl.full((), low, COMPUTE), tl.full((), high, COMPUTE)
    if left == BLOCK:
        byte = tl.load(packed_ptr + first // PER_BYTE + byte_at)
        grad = tl.load(grad_ptr + first + at).to(COMPUTE)
        grad_x = times(grad, _slope(byte, low, high, BITS, BLOCK), MASKS)
        tl.store(grad_x_ptr + first + at, grad_x.to(grad_x_ptr.dtype.element_ty))
    else:
        byte = tl.load(packed_ptr + first // PER_BYTE + byte_at, mask=byte_at * PER_BYTE < left, other=0)
        grad = tl.load(grad_ptr + first + at, mask=at < left, other=0.0).to(COMPUTE)
        grad_x = times(grad, _slope(byte, low, high, BITS, BLOCK), MASKS)
        tl.store(grad_x_ptr + first + at, grad_x.to(grad_x_ptr.dtype.element_ty), mask=at < left)


@triton.jit
def _slope(byte, low, high, BITS: tl.constexpr, BLOCK: tl.constexpr):
    MOST: tl.constexpr = (1 << BITS) - 1
    code = unpack(byte, BITS, BLOCK)
    if BITS == 1:
        return tl.where(code != 0, high, low)
    else:
        return code.to(low.dtype) * ((high - low) / MOST) + low
