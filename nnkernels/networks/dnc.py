"""The differentiable neural computer (Graves et al. 2016): a memory that knows what is free, and what followed what."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import functional as F
from .remembering import Remembering, changed


def allocated(usage: Tensor) -> Tensor:
    """Where to write what is new: the freest slot, as far as it is free, then the next.

    Args:
        usage: `(batch, slots)` in [0, 1].

    Returns:
        `(batch, slots)`, which sum to 1 at most.

    Example:
        >>> import torch
        >>> from nnkernels.networks.dnc import allocated
        >>> allocated(torch.tensor([[1.0, 0.0, 0.5]]))
        tensor([[0., 1., 0.]])
    """
    rising, order = usage.sort(1)
    full = torch.nn.functional.pad(rising.cumprod(1)[:, :-1], (1, 0), value=1.0)
    return torch.zeros_like(usage).scatter(1, order, (1 - rising) * full)


class State(NamedTuple):
    """Of the heads.

    Attributes:
        usage: `(batch, slots)` in [0, 1].
        latest: `(batch, slots)`, where was written last.
        links: `(batch, slots, slots)`, how far the first was written right after the second.
        where: `(batch, 1 + heads, slots)`, the writer's and the readers' places.
    """

    usage: Tensor
    latest: Tensor
    links: Tensor
    where: Tensor


class DNC(Remembering):
    """The computer; arguments and shapes are those of `Remembering`.

    A slot is free again once it was read, if the reader says so. A reader goes to what it looks for, or from where it
    is to what was written right after, or before.

    Example:
        >>> import torch
        >>> from nnkernels.networks.dnc import DNC
        >>> DNC(5, 4)(torch.zeros(3, 17, 5)).shape
        torch.Size([3, 17, 4])
    """

    def told(self) -> list[int]:
        every = 1 + self.heads
        return [every * self.size, every, self.heads, 3 * self.heads, 1, 1, self.size, self.size]

    def begin(self, like: Tensor, batch: int) -> State:
        sizes = ((), (), (self.slots,), ())
        usage, latest, links, _ = (like.new_zeros(batch, *size, self.slots) for size in sizes)
        return State(usage, latest, links, like.new_zeros(batch, 1 + self.heads, self.slots))

    def move(self, parts: tuple[Tensor, ...], memory: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        keys, strength, free, modes, allocation, writes, erase, add = parts
        keys, strength = keys.unflatten(1, (1 + self.heads, -1)), 1 + F.softplus(strength)
        writer, readers = state.where[:, 0], state.where[:, 1:]

        kept = (1 - F.sigmoid(free).unsqueeze(2) * readers).prod(1)
        usage = (state.usage + writer - state.usage * writer) * kept
        found = F.content_addressing(memory, keys[:, :1], strength[:, :1]).squeeze(1)
        where = F.sigmoid(writes) * (found + F.sigmoid(allocation) * (allocated(usage) - found))
        memory = changed(memory, where, F.sigmoid(erase), F.tanh(add))

        after, of = where.unsqueeze(2), where.unsqueeze(1)
        links = (1 - after - of) * state.links + after * state.latest.unsqueeze(1)
        links = links * (1 - torch.eye(self.slots, dtype=links.dtype, device=links.device))
        latest = (1 - where.sum(1, keepdim=True)) * state.latest + where

        content = F.content_addressing(memory, keys[:, 1:], strength[:, 1:])
        ways = torch.stack([readers @ links, content, readers @ links.mT], 2)  # before, sought, after
        readers = (F.softmax(modes.unflatten(1, (self.heads, 1, 3)), -1) @ ways).squeeze(2)
        everyone = torch.cat([where.unsqueeze(1), readers], 1)
        return memory, everyone, State(usage, latest, links, everyone)
