"""Neurons that leak, integrate and fire over time, and their kernels.

With v[0] = start, or 0:

    s[t] = 1 if v[t] > threshold else 0
    v[t] = decay v[t-1] + current[t] - threshold s[t-1]        reset by subtraction
    v[t] = decay v[t-1] (1 - s[t-1]) + current[t]              reset to zero

Backward takes S'(slope (v[t] - threshold)) for the derivative of s[t], S' being the surrogate, which is 1 at 0:

    fast_sigmoid  1 / (1 + |z|)^2
    arctan        1 / (1 + z^2)
    triangular    max(0, 1 - |z|)
    sigmoid       4 sigmoid(z) sigmoid(-z)

With b[t] the gradient at v[t], c = decay for subtraction and decay (1 - s[t]) for zero, and r = -threshold or
-decay v[t], or 0 if the reset is detached:

    b[t] = c b[t+1] + (grad[t] + r b[t+1]) S'(slope (v[t] - threshold))

which is the gradient of current[t] as well. The potential is computed in float32 for 16-bit data, and in the
data's type otherwise. Neither potentials nor spikes are kept from forward to backward: a kernel's backward repeats the
very operations of its forward, with the same roundings, so that the neurons fire again as they did.

Kernels take (steps, rows, cols) of any strides, and (rows, cols) for what has no time. The potential after the last
step is the one before its reset, so that it is the `start` of what follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from torch import Tensor

SURROGATES = ("fast_sigmoid", "arctan", "triangular", "sigmoid")
"""In the order of the numbers that C++ knows them by."""

RESETS = ("subtract", "zero")


class Neuron(NamedTuple):
    """The constants of a call."""

    decay: float
    threshold: float
    surrogate: str
    slope: float
    reset: str
    detach_reset: bool


class Kernels(Protocol):
    """The kernels of spiking neurons."""

    def lif(
        self, neuron: Neuron, current: Tensor, start: Tensor | None, spikes: Tensor, potential: Tensor | None
    ) -> None:
        """Writes the spikes and, where asked for, the potential after the last step. A NaN's spike is NaN."""

    def lif_backward(
        self,
        neuron: Neuron,
        grad: Tensor,
        grad_potential: Tensor | None,
        current: Tensor,
        start: Tensor | None,
        grad_current: Tensor,
        grad_start: Tensor | None,
    ) -> None:
        """Writes the gradients of the current and, where asked for, of the potential before the first step."""


if TYPE_CHECKING:
    from ..cpu import spiking as cpu
    from ..reference import spiking as reference
    from ..triton import spiking as triton

    _: tuple[Kernels, ...] = (cpu, triton, reference)
