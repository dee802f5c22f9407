"""Spiking neurons in Triton; what each function computes is told in `contracts/spiking.py`.

A program takes a block of neurons through all steps, with their potentials in registers. Backward holds the potentials
of a segment of steps: it goes forward once to find where each segment begins, then takes the segments from the last to
the first, forward and back in registers. With no more steps than a segment has, it reads everything once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..contracts.computing import wide_dtype
from ..contracts.spiking import Neuron
from ..recording import launch
from . import hardware
from .math import compute_type, divide, is_fast
from .smooth import sigmoid_d1

NUM_WARPS = 4
_THREADS = 32 * NUM_WARPS
_WAVES = 4  # of programs to a multiprocessor, before a thread takes a second neuron
AHEAD = 8  # steps whose currents are under way at once
SEGMENT = 16


def lif(neuron: Neuron, current: Tensor, start: Tensor | None, spikes: Tensor, potential: Tensor | None) -> None:
    steps, _, cols = current.shape
    block, by_rows, programs = tiling(current, most(current.dtype))
    ahead = min(AHEAD, triton.next_power_of_2(steps))
    with hardware.guard(current.device):
        launch(forward, (programs,))(
            current, start, spikes, potential, steps, current[0].numel(), cols,
            *current.stride(), *_strides(start), *spikes.stride(), *_strides(potential),
            neuron.decay, neuron.threshold,
            start is not None, potential is not None, neuron.reset == "subtract",
            steps % ahead == 0, ahead, by_rows, block, num_warps=NUM_WARPS,
        )  # fmt: skip


def lif_backward(
    neuron: Neuron,
    grad: Tensor,
    grad_potential: Tensor | None,
    current: Tensor,
    start: Tensor | None,
    grad_current: Tensor,
    grad_start: Tensor | None,
) -> None:
    steps, rows, cols = current.shape
    block, by_rows, programs = tiling(current, most(current.dtype) // 2)
    segment = min(SEGMENT, triton.next_power_of_2(steps))
    segments = -(-steps // segment)
    wide = wide_dtype(current.dtype)
    begun = current.new_empty((segments, rows * cols), dtype=wide) if segments > 1 else None
    with hardware.guard(current.device):
        launch(backward, (programs,))(
            grad, grad_potential, current, start, grad_current, grad_start, begun, steps, segments, rows * cols, cols,
            *grad.stride(), *_strides(grad_potential), *current.stride(), *_strides(start),
            *grad_current.stride(), *_strides(grad_start),
            neuron.decay, neuron.threshold, neuron.slope,
            grad_potential is not None, start is not None, grad_start is not None, segments > 1,
            neuron.surrogate, neuron.reset == "subtract", neuron.detach_reset,
            steps % segment == 0, segment, by_rows, block, num_warps=NUM_WARPS,
        )  # fmt: skip


def _strides(x: Tensor | None) -> tuple[int, int]:
    return (0, 0) if x is None else x.stride()  # type: ignore[return-value]


def most(dtype: torch.dtype) -> int:
    """Adjacent neurons of a thread in forward: 16 bytes, or 4 whose potentials leave registers for their currents.

    Backward takes half as many, or the potentials and gradients of a segment would spill.
    """
    return min(4, 16 // dtype.itemsize)


def tiling(current: Tensor, each: int) -> tuple[int, bool, int]:
    """Neurons of a program, whether it keeps to one row, and how many programs there are.

    A thread takes `each` adjacent neurons, or fewer if that left multiprocessors without work.
    """
    _, rows, cols = current.shape
    least = _WAVES * hardware.multiprocessors(current.device) * _THREADS
    while each > 1 and rows * cols < least * each:
        each //= 2
    block = each * _THREADS
    if rows == 1 or cols >= block:
        return block, True, rows * -(-cols // block)
    return block, False, -(-rows * cols // block)


@triton.jit
def _neurons(neurons, cols, BY_ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Row, column and mask of this program's neurons."""
    number = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    if BY_ROWS:
        programs = (cols + BLOCK - 1) // BLOCK
        row = number // programs
        col = (number - row * programs) * BLOCK + lane
        return row, col, col < cols
    else:
        neuron = number * BLOCK + lane
        row = neuron // cols
        return row, neuron - row * cols, neuron < neurons


@triton.jit
def _advanced(v, current, decay, threshold, SUBTRACT: tl.constexpr):
    """The next potential, with an fma written out: forward and backward have to round alike."""
    fired = v > threshold
    if SUBTRACT:
        return tl.fma(v, decay, current) - tl.where(fired, threshold, 0.0)
    else:
        return tl.fma(tl.where(fired, 0.0, v), decay, current)


@triton.jit
def _surrogate(z, KIND: tl.constexpr, FAST: tl.constexpr):
    if KIND == "fast_sigmoid":
        root = divide(1.0, 1.0 + tl.abs(z), FAST)
        return root * root
    elif KIND == "arctan":
        return divide(1.0, tl.fma(z, z, 1.0), FAST)
    elif KIND == "triangular":
        height = 1.0 - tl.abs(z)
        return tl.where(height <= 0, 0.0, height)
    else:
        return 4.0 * sigmoid_d1(z, 0.0, 0.0, FAST)


@triton.jit
def _pulled(
    v,
    grad,
    carried,
    decay,
    threshold,
    slope,
    KIND: tl.constexpr,
    SUBTRACT: tl.constexpr,
    DETACH: tl.constexpr,
    FAST: tl.constexpr,
):
    """The gradient at the potential `v`, told the one at that of the next step."""
    kept = decay * carried
    if SUBTRACT:
        lost = threshold * carried
    else:
        lost = v * kept
        kept = tl.where(v > threshold, 0.0, kept)
    if not DETACH:
        grad -= lost
    return tl.fma(grad, _surrogate(slope * (v - threshold), KIND, FAST), kept)


@triton.jit
def _start(pointer, at, inside, HAS: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr):
    if HAS:
        return tl.load(pointer + at, mask=inside, other=0.0).to(COMPUTE)
    else:
        return tl.zeros([BLOCK], COMPUTE)


@triton.jit
def _load(pointers, mask, t, steps, EVEN: tl.constexpr):
    """The numbers of step `t`, or 0 beyond the last."""
    if not EVEN:
        mask = mask & (t < steps)
    return tl.load(pointers, mask=mask, other=0.0)


@triton.jit(do_not_specialize=["steps", "neurons"])
def forward(
    x_ptr, start_ptr, y_ptr, potential_ptr, steps, neurons, cols,
    x_time, x_row, x_col, start_row, start_col, y_time, y_row, y_col, potential_row, potential_col,
    decay: tl.float64, threshold: tl.float64,
    START: tl.constexpr, POTENTIAL: tl.constexpr, SUBTRACT: tl.constexpr,
    EVEN: tl.constexpr, AHEAD: tl.constexpr, BY_ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype)
    decay = tl.full((), decay, COMPUTE)
    threshold = tl.full((), threshold, COMPUTE)
    row, col, inside = _neurons(neurons, cols, BY_ROWS, BLOCK)
    x_at = x_ptr + row * x_row + col * x_col
    y_at = y_ptr + row * y_row + col * y_col
    v = _start(start_ptr, row * start_row + col * start_col, inside, START, COMPUTE, BLOCK)
    for first in range(0, steps, AHEAD):
        received = ()
        for k in tl.static_range(AHEAD):  # all before the first store, behind which the compiler moves no load
            t = tl.cast(first + k, tl.int64)
            received = received + (_load(x_at + t * x_time, inside, t, steps, EVEN),)  # type: ignore[assignment]
        for k in tl.static_range(AHEAD):
            t = tl.cast(first + k, tl.int64)
            if EVEN:
                writes = inside
                v = _advanced(v, received[k].to(COMPUTE), decay, threshold, SUBTRACT)
            else:
                writes = inside & (t < steps)
                after = _advanced(v, received[k].to(COMPUTE), decay, threshold, SUBTRACT)
                v = tl.where(t < steps, after, v)
            spikes = tl.where(v > threshold, 1.0, tl.where(v == v, 0.0, v))
            tl.store(y_at + t * y_time, spikes.to(y_ptr.dtype.element_ty), mask=writes)
    if POTENTIAL:
        at = row * potential_row + col * potential_col
        tl.store(potential_ptr + at, v.to(potential_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["steps", "segments", "neurons"])
def backward(
    grad_ptr, grad_potential_ptr, x_ptr, start_ptr, grad_x_ptr, grad_start_ptr, begun_ptr,
    steps, segments, neurons, cols,
    grad_time, grad_row, grad_col, grad_potential_row, grad_potential_col,
    x_time, x_row, x_col, start_row, start_col,
    grad_x_time, grad_x_row, grad_x_col, grad_start_row, grad_start_col,
    decay: tl.float64, threshold: tl.float64, slope: tl.float64,
    POTENTIAL: tl.constexpr, START: tl.constexpr, GRAD_START: tl.constexpr, LONG: tl.constexpr,
    KIND: tl.constexpr, SUBTRACT: tl.constexpr, DETACH: tl.constexpr,
    EVEN: tl.constexpr, SEGMENT: tl.constexpr, BY_ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    COMPUTE: tl.constexpr = compute_type(x_ptr.dtype)
    FAST: tl.constexpr = is_fast(x_ptr.dtype)
    decay = tl.full((), decay, COMPUTE)
    threshold = tl.full((), threshold, COMPUTE)
    slope = tl.full((), slope, COMPUTE)
    row, col, inside = _neurons(neurons, cols, BY_ROWS, BLOCK)
    x_at = x_ptr + row * x_row + col * x_col
    grad_at = grad_ptr + row * grad_row + col * grad_col
    grad_x_at = grad_x_ptr + row * grad_x_row + col * grad_x_col
    start = _start(start_ptr, row * start_row + col * start_col, inside, START, COMPUTE, BLOCK)
    carried = tl.zeros([BLOCK], COMPUTE)
    if POTENTIAL:
        at = row * grad_potential_row + col * grad_potential_col
        last = tl.load(grad_potential_ptr + at, mask=inside, other=0.0).to(COMPUTE)

    if LONG:
        begun_at = begun_ptr + row * cols + col
        v = start
        tl.store(begun_at, v, mask=inside)
        for segment in range(1, segments):
            for k in tl.static_range(SEGMENT):
                t = tl.cast(segment * SEGMENT - SEGMENT + k, tl.int64)
                received = tl.load(x_at + t * x_time, mask=inside, other=0.0).to(COMPUTE)
                v = _advanced(v, received, decay, threshold, SUBTRACT)
            tl.store(begun_at + tl.cast(segment, tl.int64) * neurons, v, mask=inside)
        tl.debug_barrier()

    for back in range(segments):
        segment = segments - 1 - back
        received = ()
        grads = ()
        for k in tl.static_range(SEGMENT):
            t = tl.cast(segment * SEGMENT + k, tl.int64)
            received = received + (_load(x_at + t * x_time, inside, t, steps, EVEN),)  # type: ignore[assignment]
        for k in tl.static_range(SEGMENT):
            t = tl.cast(segment * SEGMENT + k, tl.int64)
            grads = grads + (_load(grad_at + t * grad_time, inside, t, steps, EVEN),)  # type: ignore[assignment]
        if LONG:
            v = tl.load(begun_at + tl.cast(segment, tl.int64) * neurons, mask=inside, other=0.0)
        else:
            v = start
        potentials = ()
        for k in tl.static_range(SEGMENT):
            v = _advanced(v, received[k].to(COMPUTE), decay, threshold, SUBTRACT)
            potentials = potentials + (v,)  # type: ignore[assignment]
        for back_k in tl.static_range(SEGMENT):
            t = tl.cast(segment * SEGMENT + SEGMENT - 1 - back_k, tl.int64)
            v = potentials[SEGMENT - 1 - back_k]
            grad = grads[SEGMENT - 1 - back_k].to(COMPUTE)  # type: ignore[var-annotated]
            pulled = _pulled(v, grad, carried, decay, threshold, slope, KIND, SUBTRACT, DETACH, FAST)
            writes = inside
            if EVEN:
                carried = pulled
            else:
                writes = inside & (t < steps)
                carried = tl.where(t < steps, pulled, carried)
            if POTENTIAL:
                carried += tl.where(t == steps - 1, last, 0.0)
            tl.store(grad_x_at + t * grad_x_time, carried.to(grad_x_ptr.dtype.element_ty), mask=writes)

    if GRAD_START:
        carried = _pulled(
            start, tl.zeros([BLOCK], COMPUTE), carried, decay, threshold, slope, KIND, SUBTRACT, DETACH, FAST
        )
        at = row * grad_start_row + col * grad_start_col
        tl.store(grad_start_ptr + at, carried.to(grad_start_ptr.dtype.element_ty), mask=inside)
