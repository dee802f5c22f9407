"""What networks with a memory of their own share: heads that erase, add and read.

Graves, Wayne & Danihelka 2014; Graves et al. 2016.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from .activating import initialise
from .expecting import expect
from .lstm import LSTMCell


def changed(memory: Tensor, where: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """A memory `(batch, slots, size)` after writing: `where` `(batch, slots)`, `erase` and `add` `(batch, size)`.

    Example:
        >>> changed(torch.ones(1, 2, 2), torch.tensor([[1.0, 0.0]]), torch.ones(1, 2), torch.zeros(1, 2))
        tensor([[[0., 0.],
                 [1., 1.]]])
    """
    where = where.unsqueeze(2)
    return memory * (1 - where * erase.unsqueeze(1)) + where * add.unsqueeze(1)


class Remembering(torch.nn.Module):
    """A controller with long short-term memory, whose heads write to and read from slots.

    A subclass says how many numbers its heads are told (`told`), makes the first state (`begin`), and moves (`move`).

    Args:
        features: of the input at a place.
        outputs: numbers at each place.
        slots: of the memory.
        size: numbers of a slot.
        width: of the controller.
        heads: that read; one writes.

    Shape: `(batch, places, features)` to `(batch, places, outputs)`.

    Raises:
        ValueError: the input has another shape.
    """

    marks: ClassVar[float] = 1e-3
    """What a slot holds at first."""

    def __init__(
        self, features: int, outputs: int, *, slots: int = 24, size: int = 12, width: int = 64, heads: int = 1
    ) -> None:
        super().__init__()
        self.features, self.slots, self.size, self.heads = features, slots, size, heads
        self.controller = LSTMCell(features + heads * size, width, "tanh", 2)
        self.interface = torch.nn.Linear(width, sum(self.told()))
        self.head = torch.nn.Linear(width + heads * size, outputs)
        for linear in (self.interface, self.head):
            initialise(linear, "linear")

    def told(self) -> list[int]:
        """How many numbers each part of what the controller tells the heads has."""
        raise NotImplementedError

    def begin(self, like: Tensor, batch: int) -> Any:
        """The heads' first state, of the type of `like`."""
        raise NotImplementedError

    def move(self, parts: tuple[Tensor, ...], memory: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        """The memory written to, where the heads are, `(batch, 1 + heads, slots)`, the writer first, and their state.

        Args:
            parts: of the interface, each `(batch, one of told())`.
            memory: `(batch, slots, size)`.
            state: what it returned before, or `begin`.
        """
        raise NotImplementedError

    def traced(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Its outputs, and where its heads were, `(batch, places, 1 + heads, slots)`; the writer is the first."""
        expect(self, x, "batch", "places", self.features)
        like, batch, sizes = self.interface.weight, x.shape[0], self.told()
        hidden = tuple(like.new_zeros(batch, self.controller.width) for _ in range(2))
        memory = like.new_full((batch, self.slots, self.size), self.marks)
        read, state = like.new_zeros(batch, self.heads * self.size), self.begin(like, batch)
        outputs, places = [], []
        for given in x.unbind(1):
            hidden = self.controller.step(self.controller.given(torch.cat([given, read], 1)), hidden)
            parts = self.interface(hidden[0]).to(memory.dtype).split(sizes, 1)  # of 16 bits under autocast
            memory, where, state = self.move(parts, memory, state)
            read = (where[:, 1:] @ memory).flatten(1)
            outputs.append(self.head(torch.cat([hidden[0], read], 1)))
            places.append(where)
        return torch.stack(outputs, 1), torch.stack(places, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.traced(x)[0]
