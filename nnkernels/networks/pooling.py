"""Attention that pools (Ilse, Tomczak & Welling 2018): a bag's class from its samples, and which of them it was."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional as F
from .activating import initialise
from .expecting import expect
from .mlp import MLP


class GatedPooling(torch.nn.Module):
    """The mean of a bag's samples, each weighed by how much it says.

    a = softmax(w . (tanh(V h) * sigmoid(U h))) over the samples; the bag is the sum of a h.

    Args:
        features: of a sample.
        width: of V and U.

    Shape: `(batch, samples, features)` to `(batch, features)`.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.said = torch.nn.Linear(features, 2 * width)
        self.score = torch.nn.Linear(width, 1, bias=False)
        for linear in (self.said, self.score):
            initialise(linear, "linear")

    def shares(self, x: Tensor) -> Tensor:
        """How much each sample counts, `(batch, samples)`, which sum to 1."""
        said, gate = self.said(x).chunk(2, -1)
        return F.softmax(self.score(F.tanh(said) * F.sigmoid(gate)).squeeze(-1), 1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.shares(x).unsqueeze(1) @ x).squeeze(1)


class MeanPooling(torch.nn.Module):
    """Each sample weighed alike; `(batch, samples, features)` to `(batch, features)`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class AttentionPooling(torch.nn.Module):
    """Multiple-instance learning: each sample of a bag goes through the same layers, and the pooled ones are read.

    Args:
        shape: (samples, features) of a bag.
        outputs: numbers for each bag.
        activation: any name of the catalogue.
        width: of hidden layers.
        depth: hidden layers.
        dropout: the probability, behind each hidden layer.
        weighs: whether samples are weighed; if not, they are pooled by their mean.

    Shape: `(batch, samples, features)` to `(batch, outputs)`, the same in whatever order. The number of samples may be
        another one at each call.

    Example:
        >>> import torch
        >>> from nnkernels.networks.pooling import AttentionPooling
        >>> AttentionPooling((10, 64), 2)(torch.zeros(3, 12, 64)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        outputs: int,
        *,
        activation: str = "relu",
        width: int = 64,
        depth: int = 1,
        dropout: float = 0.0,
        weighs: bool = True,
    ) -> None:
        super().__init__()
        expect(self, shape, "samples", "features")
        self.features = shape[1]
        self.layers = MLP((self.features,), width, activation=activation, width=width, depth=depth, dropout=dropout)
        self.pool = GatedPooling(width, width) if weighs else MeanPooling()
        self.head = torch.nn.Linear(width, outputs)
        initialise(self.head, "linear")

    def hidden(self, x: Tensor) -> Tensor:
        """What is made of each sample by itself, `(batch, samples, width)`."""
        return self.layers(x.flatten(0, 1)).view(*x.shape[:2], -1)

    def forward(self, x: Tensor) -> Tensor:
        expect(self, x, "batch", "samples", self.features)
        return self.head(self.pool(self.hidden(x)))
