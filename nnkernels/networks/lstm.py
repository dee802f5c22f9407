"""Long short-term memory (Hochreiter & Schmidhuber 1997), with the gate that forgets of Gers et al. (2000)."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional as F
from .recurrent import Cell, Recurrent


class LSTMCell(Cell):
    """A memory that is only ever added to and multiplied: three gates say what enters, stays and is told.

    i, f, o = sigmoid(W x + b + U h); c' = f c + i activation(W x + b + U h); h' = o tanh(c').
    """

    states = 2

    def __init__(self, features: int, width: int, activation: str, places: int) -> None:
        super().__init__(features, width, activation, places)
        with torch.no_grad():  # units begin with memories of all lengths up to the sequence's (Tallec & Ollivier 2018)
            enters, stays = self.given.bias[: 2 * width].chunk(2)
            enters.copy_(-stays.uniform_(1, max(places - 1, 2)).log_())

    def blocks(self) -> int:
        return 3 * self.width + self.candidate

    def step(self, given: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, memory = state
        gates, candidate = (given + self.recurrent(hidden)).split([3 * self.width, self.candidate], 1)
        enters, stays, told = F.sigmoid(gates).chunk(3, 1)
        memory = stays * memory + enters * self.activation(candidate)
        return told * F.tanh(memory), memory


class LSTM(Recurrent):
    """The network with long short-term memory; arguments and shapes are those of `Recurrent`.

    Example:
        >>> import torch
        >>> from nnkernels.networks.lstm import LSTM
        >>> LSTM((60, 2), 1, width=32)(torch.zeros(5, 60, 2)).shape
        torch.Size([5, 1])
    """

    cell = LSTMCell
