"""The Siamese network (Bromley et al. 1993): twins that share every weight, and a distance between what they say."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional as F
from .expecting import expect


class Siamese(torch.nn.Module):
    """How far apart two inputs are, after one network has read each of them.

    Args:
        twin: takes `(batch, *shape)` to `(batch, features)`; which network it is does not matter.

    Shape: two of `(batch, *shape)` to distances `(batch,)`, between 0 and 2.

    Raises:
        ValueError: the two inputs have not one shape.

    Example:
        >>> import torch
        >>> from nnkernels.networks import build
        >>> from nnkernels.networks.siamese import Siamese
        >>> network = Siamese(build("mlp", (1, 8, 8), 16))
        >>> x = torch.rand(3, 1, 8, 8)
        >>> network(x, x).tolist()
        [0.0, 0.0, 0.0]
    """

    def __init__(self, twin: torch.nn.Module) -> None:
        super().__init__()
        self.twin = twin

    def embed(self, x: Tensor) -> Tensor:
        """What the twin says of `(batch, *shape)`, brought to the length 1: `(batch, features)`."""
        return torch.nn.functional.normalize(self.twin(x), dim=1)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        expect("the second input of a Siamese network", other, *one.shape)
        return torch.linalg.vector_norm(self.embed(one) - self.embed(other), dim=1)


def contrastive(distance: Tensor, same: Tensor, margin: float = 1.0) -> Tensor:
    """The loss of Hadsell, Chopra & LeCun (2006): what is alike is drawn together, and else pushed to a margin.

    Args:
        distance: of each pair, `(pairs,)`.
        same: whether its two are alike, `(pairs,)`, of truth values.
        margin: beyond which what differs is far enough.

    Returns:
        The mean over the pairs.

    Example:
        >>> import torch
        >>> from nnkernels.networks.siamese import contrastive
        >>> round(contrastive(torch.tensor([0.5, 0.5, 2.0]), torch.tensor([True, False, False])).item() * 3, 4)
        0.5
    """
    return torch.where(same, distance.square(), F.relu(margin - distance).square()).mean()
