"""The deep ensemble (Lakshminarayanan, Pritzel & Blundell 2017): members that differ by chance, and their mean."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from .. import functional as F


class Ensemble(torch.nn.Module):
    """Networks that are trained each for itself; together they say the mean of their probabilities.

    Train each of `members` from weights of its own, in an order of its own: their mistakes differ, so the mean has
    fewer, and where they disagree it is unsure. Equal members gain nothing. (The paper's adversarial samples are left
    out.)

    Args:
        members: each takes `(batch, *shape)` to logits `(batch, classes)`.

    Shape: `(batch, *shape)` to the logarithms of probabilities, `(batch, classes)`: logits, as any network's.

    Raises:
        ValueError: there are no members.

    Example:
        >>> import torch
        >>> from nnkernels.networks import build
        >>> from nnkernels.networks.ensemble import Ensemble
        >>> network = Ensemble(build("mlp", (1, 8, 8), 10) for _ in range(5))
        >>> said = network(torch.zeros(3, 1, 8, 8)).exp().sum(1)
        >>> torch.allclose(said, torch.ones(3))
        True
    """

    def __init__(self, members: Iterable[torch.nn.Module]) -> None:
        super().__init__()
        self.members = torch.nn.ModuleList(members)
        if not self.members:
            raise ValueError("an ensemble needs at least 1 member, got 0")

    def each(self, x: Tensor) -> Tensor:
        """The logarithms of each member's probabilities, `(members, batch, classes)`."""
        return F.log_softmax(torch.stack([member(x) for member in self.members]), -1)

    def forward(self, x: Tensor) -> Tensor:
        return self.each(x).logsumexp(0) - math.log(len(self.members))

    def disagreement(self, x: Tensor) -> Tensor:
        """What the members' opinions differ by, in nats, `(batch,)`: the mean's entropy less the mean entropy.

        It is 0 where all say the same, and at most log(members).
        """
        each, together = self.each(x), self(x)
        own = -(each.exp() * each).sum(-1).mean(0)
        return -(together.exp() * together).sum(-1) - own
