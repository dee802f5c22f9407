"""The simple recurrent network (Elman 1990): its state is all that it remembers, and is written anew at each place."""

from __future__ import annotations

from torch import Tensor

from .recurrent import Cell, Recurrent


class ElmanCell(Cell):
    """h' = activation(W x + b + U h)."""

    def step(self, given: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self.activation(given + self.recurrent(state[0])),)


class RNN(Recurrent):
    """Elman's network; arguments and shapes are those of `Recurrent`.

    Example:
        >>> import torch
        >>> from nnkernels.networks.rnn import RNN
        >>> RNN((60, 2), 1, width=32)(torch.zeros(5, 60, 2)).shape
        torch.Size([5, 1])
    """

    cell = ElmanCell
