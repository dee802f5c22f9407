"""The gated recurrent unit (Cho et al. 2014), in the form that PyTorch and cuDNN have."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional as F
from .recurrent import Cell, Recurrent


class GRUCell(Cell):
    """Two gates: how much of the past a new candidate hears (r), and how much of the past stays (z).

    r, z = sigmoid(W x + b + U h); n = activation(W x + b + r U h); h' = n + z (h - n).
    """

    def blocks(self) -> int:
        return 2 * self.width + self.candidate

    def step(self, given: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (hidden,) = state
        if isinstance(self.activation, torch.nn.Tanh):
            return (F.gru_gates(given, self.recurrent(hidden), hidden),)
        sizes = [2 * self.width, self.candidate]
        (gates, new), (past_gates, past) = given.split(sizes, 1), self.recurrent(hidden).split(sizes, 1)
        reset, keep = F.sigmoid(gates + past_gates).chunk(2, 1)
        if self.candidate != self.width:
            reset = reset.repeat(1, self.candidate // self.width)
        candidate = self.activation(new + reset * past)
        return (candidate + keep * (hidden - candidate),)


class GRU(Recurrent):
    """The gated recurrent network; arguments and shapes are those of `Recurrent`.

    Example:
        >>> import torch
        >>> from nnkernels.networks.gru import GRU
        >>> GRU((40, 1), 10, width=32)(torch.zeros(5, 40, 1)).shape
        torch.Size([5, 10])
    """

    cell = GRUCell
