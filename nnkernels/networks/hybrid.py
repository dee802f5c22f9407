"""A hybrid of two kinds: convolutions make a sequence short, and a recurrent network reads it (Choi et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from .activating import features_in, initialise, layer
from .expecting import expect
from .gru import GRUCell


class CNNGRU(torch.nn.Module):
    """Convolutions that see what is near and leave every fourth place, and a gated recurrent unit along what is left.

    Args:
        shape: (places, features) of a sequence.
        outputs: numbers for each sequence.
        activation: any name of the catalogue, of the convolutions.
        width: channels, and the state's features.
        depth: convolutions; the first two halve the sequence.
        dropout: the probability, of a whole channel behind each convolution.

    Shape: `(batch, places, features)` to `(batch, outputs)`. The number of places may be another one at each call.

    Example:
        >>> import torch
        >>> from nnkernels.networks.hybrid import CNNGRU
        >>> CNNGRU((40, 1), 10, width=32)(torch.zeros(5, 44, 1)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        outputs: int,
        *,
        activation: str = "mish",
        width: int = 64,
        depth: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        expect(self, shape, "places", "features")
        places, self.features = shape
        channels, behind = self.features, "linear"
        layers: list[torch.nn.Module] = []
        for number in range(depth):
            stride = 2 if number < 2 else 1
            convolution = torch.nn.Conv1d(channels, width * features_in(activation), 5, stride=stride, padding=2)
            initialise(convolution, behind)
            layers += [convolution, layer(activation, dim=1), torch.nn.Dropout1d(dropout)]
            channels, behind = width, activation
        self.layers = torch.nn.Sequential(*layers)
        self.cell = GRUCell(width, width, "tanh", places)
        self.head = torch.nn.Linear(width, outputs)
        initialise(self.head, "linear")

    def forward(self, x: Tensor) -> Tensor:
        expect(self, x, "batch", "places", self.features)
        return self.head(self.cell(self.layers(x.mT).mT)[:, -1])
