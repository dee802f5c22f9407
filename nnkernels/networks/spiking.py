"""Spiking networks trained with surrogate gradients (Neftci, Mostafa & Zenke 2019): neurons that leak, add and fire."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import functional as F
from ..names import check
from .activating import features_in, initialise, layer
from .expecting import expect

RESETS = ("subtract", "zero")
SURROGATES: dict[str, Callable[[Tensor], Tensor]] = {
    "fast_sigmoid": lambda z: (1 + z.abs()).pow(-2),
    "arctan": lambda z: 1 / (1 + z.square()),
    "triangular": lambda z: F.relu(1 - z.abs()),
    "sigmoid": lambda z: 4 * F.sigmoid(z) * F.sigmoid(-z),
}
"""What stands for the derivative of the step at z, by name; each is 1 at 0."""


_RATE = 0.25
"""About how often a neuron fires at first, which is the mean square of its spikes."""


class _Spike(torch.autograd.Function):
    """1 where a potential exceeds 0, else 0, with another function in the place of its derivative."""

    @staticmethod
    def forward(ctx: Any, above: Tensor, surrogate: str, slope: float) -> Tensor:
        ctx.save_for_backward(above)
        ctx.surrogate, ctx.slope = surrogate, slope
        return (above > 0).to(above)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (above,) = ctx.saved_tensors
        return grad_output * SURROGATES[ctx.surrogate](ctx.slope * above), None, None


def lif(
    current: Tensor,
    *,
    decay: float = 0.9,
    threshold: float = 1.0,
    surrogate: str = "fast_sigmoid",
    slope: float = 5.0,
    reset: str = "subtract",
    detach_reset: bool = True,
) -> Tensor:
    """Leaky integrate-and-fire neurons: v[t] = decay v[t-1] + current[t], a spike where v exceeds the threshold.

    A neuron that has fired begins the next step lower by the threshold, or anew at 0; so does snnTorch's `Leaky`.

    Args:
        current: `(steps, ...)`, what each neuron receives at each step.
        decay: what is left of a potential one step later, in [0, 1]; snnTorch calls it beta.
        threshold: above which a neuron fires.
        surrogate: what stands for the step's derivative, a key of `SURROGATES`.
        slope: how fast the surrogate falls off away from the threshold.
        reset: "subtract" takes the threshold off, before nothing else decays; "zero" empties the neuron.
        detach_reset: whether gradients pass by the reset, as Zenke & Vogels (2021) advise.

    Returns:
        Spikes, 0 and 1, of the same shape.

    Raises:
        ValueError: there are no steps, the decay is out of its range, or a name is not known.

    Example:
        >>> import torch
        >>> from nnkernels.networks.spiking import lif
        >>> lif(torch.full((6,), 0.5), decay=1.0)
        tensor([0., 0., 1., 0., 1., 0.])
    """
    check("surrogate", surrogate, SURROGATES)
    check("reset", reset, RESETS)
    if not 0 <= decay <= 1:
        raise ValueError(f"the decay of a neuron's potential lies in [0, 1], got {decay}")
    if current.ndim == 0 or len(current) == 0:
        raise ValueError(f"lif takes the shape (steps, ...) with one step at least, got {tuple(current.shape)}")
    potential = spike = torch.zeros_like(current[0])
    spikes = []
    for received in current.unbind(0):
        fired = spike.detach() if detach_reset else spike
        if reset == "subtract":
            potential = decay * potential + received - threshold * fired
        else:
            potential = decay * potential * (1 - fired) + received
        spike = _Spike.apply(potential - threshold, surrogate, slope)
        spikes.append(spike)
    return torch.stack(spikes)


class Spiking(torch.nn.Module):
    """Layers of neurons that fire, read by how often those of the last layer do.

    An input drives the first layer with a constant current, so that its neurons code numbers as rates.

    Args:
        shape: of one input, which is flattened.
        outputs: numbers for each input.
        activation: any name of the catalogue, between the weights and the neurons, whose range a layer norm then makes
            the neurons'; None for neither, as in the paper.
        width: neurons of each layer.
        depth: layers of neurons.
        dropout: the probability that a neuron's spikes are not heard.
        steps: of time, for one input.
        decay: what is left of a potential one step later.
        reset: see `lif`.
        surrogate: see `lif`.

    Shape: `(batch, *shape)` to `(batch, outputs)`.

    Example:
        >>> import torch
        >>> from nnkernels.networks.spiking import Spiking
        >>> network = Spiking((1, 8, 8), 10, width=32, steps=16)
        >>> network(torch.zeros(3, 1, 8, 8)).shape, network.spikes(torch.zeros(3, 1, 8, 8))[0].shape
        (torch.Size([3, 10]), torch.Size([16, 3, 32]))
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        outputs: int,
        *,
        activation: str | None = None,
        width: int = 128,
        depth: int = 2,
        dropout: float = 0.0,
        steps: int = 16,
        decay: float = 0.9,
        reset: str = "subtract",
        surrogate: str = "fast_sigmoid",
    ) -> None:
        super().__init__()
        self.shape, self.steps = tuple(shape), steps
        self.neuron: dict[str, Any] = dict(decay=decay, reset=reset, surrogate=surrogate)
        self.currents = torch.nn.ModuleList()
        features, before = math.prod(shape), features_in(activation) if activation else 1
        for _ in range(depth):
            linear = torch.nn.Linear(features, width * before)
            initialise(linear, "linear", 1 / _RATE**0.5 if self.currents else 1.0)
            shaped = [layer(activation, dim=-1), torch.nn.LayerNorm(width)] if activation else []
            self.currents.append(torch.nn.Sequential(linear, *shaped))
            features = width
        self.dropout = torch.nn.Dropout(dropout)
        self.head = torch.nn.Linear(width, outputs)
        initialise(self.head, "linear")

    def spikes(self, x: Tensor) -> list[Tensor]:
        """The spikes of each layer, `(steps, batch, width)`.

        Raises:
            ValueError: the input has another shape.
        """
        expect(self, x, "batch", *self.shape)
        told: list[Tensor] = []
        signal = x.flatten(1)
        for weigh in self.currents:
            current = weigh(signal)
            if not told:
                current = current.expand(self.steps, *current.shape)
            told.append(lif(current, **self.neuron))
            signal = self.dropout(told[-1])
        return told

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.spikes(x)[-1].mean(0)))
