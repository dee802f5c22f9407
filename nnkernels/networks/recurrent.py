"""What recurrent networks share: layers of one cell that walks along a sequence, and a head that reads it."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .activating import features_in, layer
from .expecting import expect


class Cell(torch.nn.Module):
    """One layer: what it is given at all places at once is multiplied first, then it walks from place to place.

    A subclass says how many blocks of `width` it makes of what it is given and of its state, and writes `step`.

    Args:
        features: of what it is given at a place.
        width: of its state.
        activation: any name of the catalogue.
        places: of a sequence, for what a cell begins with.

    Shape: `(batch, places, features)` to `(batch, places, width)`.
    """

    states: ClassVar[int] = 1
    """How many tensors its state has; the first is what it tells."""

    def __init__(self, features: int, width: int, activation: str, places: int) -> None:
        super().__init__()
        self.width, self.candidate = width, width * features_in(activation)
        self.activation = layer(activation, dim=-1)
        self.given = torch.nn.Linear(features, self.blocks())
        self.recurrent = torch.nn.Linear(width, self.blocks(), bias=False)
        torch.nn.init.xavier_uniform_(self.given.weight)
        torch.nn.init.zeros_(self.given.bias)
        for block in self.recurrent.weight.split(width):
            torch.nn.init.orthogonal_(block)

    def blocks(self) -> int:
        """Of how many numbers `step` is given."""
        return self.candidate

    def step(self, given: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The next state from `given`, `(batch, blocks)`, and the state before, each part `(batch, width)`."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        given = self.given(x)
        state = tuple(given.new_zeros(given.shape[0], self.width) for _ in range(self.states))
        told = []
        for one in given.unbind(1):
            state = self.step(one, state)
            told.append(state[0])
        return torch.stack(told, 1)


class Recurrent(torch.nn.Module):
    """Layers of a cell over a sequence, read at its last place; or over a text, read at each place.

    Args:
        shape: (places, features) of a sequence, or (context,) of a text, whose characters are embedded.
        outputs: numbers for each sequence, or different characters.
        activation: any name of the catalogue, of what a cell adds to its state.
        width: of the state of each layer.
        depth: layers.
        dropout: the probability, behind each layer.

    Shape: `(batch, places, features)` to `(batch, outputs)`; characters `(batch, places)` to
        `(batch, places, outputs)`. The number of places may be another one at each call.
    """

    cell: ClassVar[type[Cell]]

    def __init__(
        self,
        shape: tuple[int, ...],
        outputs: int,
        *,
        activation: str = "tanh",
        width: int = 128,
        depth: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        writes = len(shape) == 1
        if not writes:
            expect(self, shape, "places", "features")
        self.embedding = torch.nn.Embedding(outputs, width) if writes else None
        self.features = width if writes else shape[1]
        sizes = [self.features, *[width] * (depth - 1)]
        self.cells = torch.nn.ModuleList(self.cell(features, width, activation, shape[0]) for features in sizes)
        self.dropout = torch.nn.Dropout(dropout)
        self.head = torch.nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        if self.embedding is not None:
            expect(self, x, "batch", "places")
            x = self.embedding(x)
        expect(self, x, "batch", "places", self.features)
        for cell in self.cells:
            x = self.dropout(cell(x))
        return self.head(x if self.embedding is not None else x[:, -1])
