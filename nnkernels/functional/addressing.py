"""Heads that find the slots of a memory by what these hold, as a function."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from .. import _torch
from ..arguments import accepts, number, refusal
from ..autograd import addressing as autograd
from ..autograd.shortcut import shortcut
from ..contracts.addressing import Operands

__all__ = ["content_addressing"]

EPS = 1e-4
"""Added to the squares of lengths."""


@shortcut
def content_addressing(
    memory: Tensor,
    key: Tensor,
    strength: Tensor,
    gate: Tensor | None = None,
    previous: Tensor | None = None,
    shift: Tensor | None = None,
    sharpness: Tensor | None = None,
    *,
    eps: float = EPS,
) -> Tensor:
    """Where heads are that look for their keys among the slots of a memory: content, interpolated, shifted, sharpened.

        content = softmax(strength cos(key, slot))            over the slots
        mixed   = previous + gate (content - previous)        if there is a gate
        turned  = a circular convolution of mixed with shift  if there is a shift
        where   = turned^sharpness / sum(turned^sharpness)    if there is a sharpness

    With memory, key and strength alone it is the content lookup of the differentiable neural computer; with all, the
    addressing of the neural Turing machine. One pass each way. Backward keeps the arguments and nothing else.

    Args:
        memory: `(batch, slots, size)`, in any layout, as all others; float64, float32, bfloat16 or float16.
        key: `(batch, heads, size)`, what each head looks for.
        strength: `(batch, heads)`, how much the best slot is preferred; positive, usually.
        gate: `(batch, heads)`, how much of the content goes into the mixture, of [0, 1]; it comes with `previous`.
        previous: `(batch, heads, slots)`, where the heads were.
        shift: `(batch, heads, 2 r + 1)`, the shares of the steps -r to r; the last slot is beside the first.
        sharpness: `(batch, heads)`, the exponent, at least 1, usually. What is turned is held above 1e-12.
        eps: added to the squares of lengths, so that an empty slot is like no key.

    Returns:
        `(batch, heads, slots)` of the type of `memory`, to which autocast converts the others. A head's slots sum to 1,
        but for a shift whose shares do not, without a sharpness.

    Raises:
        ValueError: a shape does not fit the others, the shift has an even number of shares, of gate and previous only
            one is given, or `eps` is not positive.
        TypeError: an argument is no tensor, or of another type than the memory.
        NotImplementedError: the type is not one of the four.
        RuntimeError: the tensors are on several devices, or the backend chosen by name cannot serve them.

    Source: Graves, Wayne & Danihelka 2014, Neural Turing Machines; Graves et al. 2016.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> memory = torch.eye(3).unsqueeze(0)
        >>> ahead = torch.tensor([[[0.0, 0.0, 1.0]]])
        >>> F.content_addressing(memory, memory[:, :1], torch.full((1, 1), 20.0), shift=ahead).round()
        tensor([[[0., 1., 0.]]])
    """
    operands = Operands(memory, key, strength, gate, previous, shift, sharpness)
    given = [tensor for tensor in operands if tensor is not None]
    if has_torch_function(given):
        return handle_torch_function(content_addressing, given, *operands, eps=eps)
    if isinstance(memory, Tensor) and _torch.autocasts(memory.device.type):
        operands = Operands(*(x.to(memory.dtype) if isinstance(x, Tensor) else x for x in operands))  # type: ignore[arg-type]
    _check(operands)
    eps = number("content_addressing", "eps", eps)
    if not 0 < eps < math.inf:
        raise ValueError(f"content_addressing(): eps must be positive and finite, got {eps}")
    return autograd.call(operands, eps)


def _check(operands: Operands) -> None:
    for name, tensor in zip(Operands._fields, operands, strict=True):
        optional = name in Operands._field_defaults
        if not isinstance(tensor, Tensor) and not (optional and tensor is None):
            wanted = "Tensor or None" if optional else "Tensor"
            raise TypeError(f"content_addressing(): argument {name!r} must be {wanted}, not {type(tensor).__name__}")
    memory, key = operands.memory, operands.key
    if memory.layout == torch.jagged:
        raise NotImplementedError(
            f"content_addressing(): jagged tensors are not supported (memory of shape {tuple(memory.shape)}); use "
            ".to_padded_tensor()"
        )
    if not accepts(memory):
        raise NotImplementedError(refusal("content_addressing", memory, "memory"))
    for name, x, of in (("memory", memory, "batch, slots, size"), ("key", key, "batch, heads, size")):
        if x.dim() != 3:
            raise ValueError(f"content_addressing(): {name} has the shape ({of}), got {tuple(x.shape)}")
    if (operands.gate is None) != (operands.previous is None):
        lacking, there = ("gate", "previous") if operands.gate is None else ("previous", "gate")
        raise ValueError(f"content_addressing(): {there} is given without {lacking}, with which it is mixed")
    batch, slots, size = memory.shape
    heads = key.shape[1]
    shapes: list[tuple[int | None, ...]] = [
        (batch, slots, size), (batch, heads, size), (batch, heads), (batch, heads), (batch, heads, slots),
        (batch, heads, None), (batch, heads),
    ]  # fmt: skip
    for name, tensor, shape in zip(Operands._fields, operands, shapes, strict=True):
        if tensor is not None:
            _check_alike(name, tensor, shape, memory)
    shift = operands.shift
    if shift is not None and shift.shape[2] % 2 == 0:
        raise ValueError(
            f"content_addressing(): shift of shape {tuple(shift.shape)} has {shift.shape[2]} shares, expected an odd "
            "number: as many steps back as ahead, and none"
        )


def _check_alike(name: str, tensor: Tensor, shape: tuple[int | None, ...], memory: Tensor) -> None:
    fits = tensor.dim() == len(shape) and all(
        wanted is None or size == wanted for size, wanted in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("an odd number" if size is None else str(size) for size in shape)
        raise ValueError(
            f"content_addressing(): {name} has shape {tuple(tensor.shape)}, expected ({wanted}) for a memory of "
            f"{tuple(memory.shape)}"
        )
    if tensor.dtype != memory.dtype:
        raise TypeError(
            f"content_addressing(): {name} is {tensor.dtype}, the memory {memory.dtype}; give {name}.to({memory.dtype})"
        )
    if tensor.device != memory.device:
        raise RuntimeError(f"content_addressing(): {name} is on {tensor.device}, the memory on {memory.device}")
