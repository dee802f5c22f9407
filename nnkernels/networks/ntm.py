"""The neural Turing machine (Graves, Wayne & Danihelka 2014): heads on a tape that a network can learn to move."""

from __future__ import annotations

from torch import Tensor

from .. import functional as F
from .remembering import Remembering, changed


class NTM(Remembering):
    """The machine; arguments and shapes are those of `Remembering`. All heads begin at the first slot.

    Example:
        >>> import torch
        >>> from nnkernels.networks.ntm import NTM
        >>> NTM(5, 4)(torch.zeros(3, 17, 5)).shape
        torch.Size([3, 17, 4])
    """

    def told(self) -> list[int]:
        every = 1 + self.heads
        return [every * self.size, every, every, 3 * every, every, self.size, self.size]

    def begin(self, like: Tensor, batch: int) -> Tensor:
        where = like.new_zeros(batch, 1 + self.heads, self.slots)
        where[:, :, 0] = 1
        return where

    def move(self, parts: tuple[Tensor, ...], memory: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keys, strength, gate, shift, sharpness, erase, add = parts
        every = 1 + self.heads
        where = F.content_addressing(
            memory,
            keys.unflatten(1, (every, -1)),
            F.softplus(strength),
            F.sigmoid(gate),
            state,
            F.softmax(shift.unflatten(1, (every, 3)), -1),
            1 + F.softplus(sharpness),
        )
        return changed(memory, where[:, 0], F.sigmoid(erase), F.tanh(add)), where, where
