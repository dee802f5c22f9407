"""Spiking networks trained with surrogate gradients (Neftci, Mostafa & Zenke 2019): neurons that leak, add and fire."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..functional import lif
from .activating import features_in, initialise, layer
from .expecting import expect

_RATE = 0.25
"""About how often a neuron fires at first, which is the mean square of its spikes."""


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
        reset: see `nnkernels.functional.lif`.
        surrogate: see `nnkernels.functional.lif`.

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
