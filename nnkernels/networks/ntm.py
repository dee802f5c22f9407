"""The neural Turing machine (Graves, Wayne & Danihelka 2014): heads on a tape that a network can learn to move."""

from __future__ import annotations

from torch import Tensor

from .. import functional as F
from .addressing import Remembering, by_content, changed


def moved(before: Tensor, content: Tensor, gate: Tensor, shift: Tensor, sharpness: Tensor) -> Tensor:
    """Where heads are, from where they were and what they look for: interpolated, shifted, sharpened.

    Args:
        before, content: `(batch, heads, slots)`, each head's slots sum to 1.
        gate: `(batch, heads, 1)` in [0, 1], how much of `content`.
        shift: `(batch, heads, 3)`, the shares of a step back, none, and one ahead; the last slot is beside the first.
        sharpness: `(batch, heads, 1)`, the exponent, at least 1.

    Returns:
        `(batch, heads, slots)`.
    """
    mixed = before + gate * (content - before)
    back, stay, ahead = shift.split(1, -1)
    turned = back * mixed.roll(-1, -1) + stay * mixed + ahead * mixed.roll(1, -1)
    # In logarithms, for powers of small numbers underflow; softmax divides by their sum.
    return F.softmax(sharpness * turned.clamp(min=1e-12).log(), -1)


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
        content = by_content(memory, keys.unflatten(1, (every, -1)), F.softplus(strength).unsqueeze(2))
        where = moved(
            state,
            content,
            F.sigmoid(gate).unsqueeze(2),
            F.softmax(shift.unflatten(1, (every, 3)), -1),
            1 + F.softplus(sharpness).unsqueeze(2),
        )
        return changed(memory, where[:, 0], F.sigmoid(erase), F.tanh(add)), where, where
