"""The multilayer perceptron (Rumelhart, Hinton & Williams 1986)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from .activating import features_in, initialise, layer


class MLP(torch.nn.Sequential):
    """Linear layers with an activation and dropout between them.

    Args:
        shape: of one input, which is flattened.
        outputs: numbers for each input.
        activation: any name of the catalogue.
        width: units of each hidden layer.
        depth: hidden layers.
        dropout: the probability, behind each activation.

    Shape: `(batch, *shape)` to `(batch, outputs)`.

    Example:
        >>> import torch
        >>> from nnkernels.networks.mlp import MLP
        >>> MLP((1, 8, 8), 10, activation="mish")(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 10])
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        outputs: int,
        *,
        activation: str = "relu",
        width: int = 128,
        depth: int = 2,
        dropout: float = 0.0,
    ) -> None:
        layers: list[torch.nn.Module] = [torch.nn.Flatten()]
        features, before = math.prod(shape), "linear"
        for _ in range(depth):
            linear = torch.nn.Linear(features, width * features_in(activation))
            initialise(linear, before)
            layers += [linear, layer(activation), torch.nn.Dropout(dropout)]
            features, before = width, activation
        head = torch.nn.Linear(features, outputs)
        initialise(head, before)
        super().__init__(*layers, head)

    def feed_forwards(self) -> Iterator[tuple[torch.nn.Module, ...]]:
        """Pairs of neighbouring matrices and the activation between them, for tensor parallelism."""
        linears = [at for at, module in enumerate(self) if isinstance(module, torch.nn.Linear)]
        for first, second in zip(linears[::2], linears[1::2], strict=False):
            yield self[first], self[first + 1], self[second]
