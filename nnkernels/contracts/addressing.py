"""Heads that find the slots of a memory by what these hold, and their kernels.

With unit(x) = x / sqrt(|x|^2 + eps), for each head and slot j of a memory:

    cosine[j]  = unit(key) . unit(memory[j])
    content    = softmax(strength cosine)
    mixed      = previous + gate (content - previous)               content itself without a gate
    turned[j]  = sum over k of shift[k] mixed[(j + r - k) mod slots]   mixed itself without a shift, of 2 r + 1 shares
    where      = softmax(sharpness log(max(turned, 1e-12)))         turned itself without a sharpness

The last is turned^sharpness over the sum of these, in logarithms, since powers of small numbers underflow.

All is computed in float32 for 16-bit data, and in the data's type otherwise. Backward is told the operands and nothing
else: it finds again what forward has found.

Kernels take operands of any strides: memory (batch, slots, size), key (batch, heads, size), previous and where (batch,
heads, slots), shift (batch, heads, 2 r + 1), the others (batch, heads). Gate and previous go together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from torch import Tensor

FLOOR = 1e-12
"""What `turned` is held above before its logarithm is taken."""

ON_CHIP = 2**16
"""Bytes of the largest memory that a program on a GPU holds, as it is computed with."""


def fits_on_chip(memory: Tensor) -> bool:
    """Whether a program on a GPU can hold a memory, its sizes rounded up to powers of two."""
    _, slots, size = memory.shape
    tile = 1 << ((slots - 1).bit_length() + (size - 1).bit_length())
    return tile * max(4, memory.element_size()) <= ON_CHIP


class Operands(NamedTuple):
    """Of a call; those that are None are left out."""

    memory: Tensor
    key: Tensor
    strength: Tensor
    gate: Tensor | None = None
    previous: Tensor | None = None
    shift: Tensor | None = None
    sharpness: Tensor | None = None


class Gradients(NamedTuple):
    """Of the operands; None where none is wanted."""

    memory: Tensor | None
    key: Tensor | None
    strength: Tensor | None
    gate: Tensor | None
    previous: Tensor | None
    shift: Tensor | None
    sharpness: Tensor | None


class Kernels(Protocol):
    """The kernels of content addressing."""

    def content_addressing(self, operands: Operands, eps: float, where: Tensor) -> None:
        """Writes where the heads are."""

    def content_addressing_backward(self, grad: Tensor, operands: Operands, eps: float, gradients: Gradients) -> None:
        """Writes the gradients, told that of `where`."""


if TYPE_CHECKING:
    from ..cpu import addressing as cpu
    from ..reference import addressing as reference
    from ..triton import addressing as triton

    _: tuple[Kernels, ...] = (cpu, triton, reference)
