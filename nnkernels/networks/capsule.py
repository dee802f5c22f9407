"""The capsule network (Sabour, Frosst & Hinton 2017): vectors whose lengths say whether, and directions how."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional as F
from .activating import features_in, initialise, layer
from .expecting import expect


class Capsule(torch.nn.Module):
    """Two convolutions, whose channels are capsules of 8 numbers, and one capsule for each class above them.

    Args:
        shape: (channels, height, width) of one picture, at least 13 pixels a side.
        classes: how many there are.
        activation: any name of the catalogue, behind the first convolution.
        width: channels of the second convolution, in capsules of 8; the first has half as many.
        size: numbers of a class's capsule.
        rounds: of routing.

    Shape: `(batch, channels, height, width)` to the capsules' lengths, `(batch, classes)`, each of [0, 1).

    Raises:
        ValueError: the pictures are too small or have another shape, or the width is no multiple of 8.

    Example:
        >>> import torch
        >>> from nnkernels.networks.capsule import Capsule
        >>> network = Capsule((1, 28, 28), 10, width=32)
        >>> network.capsules(torch.zeros(3, 1, 28, 28)).shape, network(torch.zeros(3, 1, 28, 28)).shape
        (torch.Size([3, 10, 16]), torch.Size([3, 10]))
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        activation: str = "relu",
        width: int = 64,
        size: int = 16,
        rounds: int = 3,
    ) -> None:
        super().__init__()
        expect(self, shape, "channels", "height", "width")
        places = [((side - 5) // 2 + 1 - 5) // 2 + 1 for side in shape[1:]]
        if min(places) < 1:
            raise ValueError(f"{type(self).__name__} needs at least 13 pixels a side, got {shape[1]} x {shape[2]}")
        if width % 8:
            raise ValueError(f"the width of capsules of 8 numbers is a multiple of 8, got {width}")
        self.shape, self.rounds = tuple(shape), rounds
        self.first = torch.nn.Conv2d(shape[0], width // 2 * features_in(activation), 5, stride=2)
        self.activation = layer(activation)
        self.second = torch.nn.Conv2d(width // 2, width, 5, stride=2)
        initialise(self.first, "linear")
        initialise(self.second, activation)
        below = width // 8 * places[0] * places[1]
        self.weight = torch.nn.Parameter(0.1 * torch.randn(below, classes, size, 8))

    def capsules(self, x: Tensor) -> Tensor:
        """The capsules of the classes, `(batch, classes, size)`: their directions are the pose."""
        expect(self, x, "batch", *self.shape)
        maps = self.second(self.activation(self.first(x)))
        below = F.squash(maps.unflatten(1, (-1, 8)).movedim(2, -1).flatten(1, 3))
        return F.route(torch.einsum("iasd,bid->bias", self.weight, below), self.rounds)

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(self.capsules(x), dim=-1)


def margin(lengths: Tensor, classes: Tensor) -> Tensor:
    """The paper's loss: the right capsule's length is to exceed 0.9, all others' to stay below 0.1.

    Args:
        lengths: `(batch, classes)`.
        classes: the right ones' numbers, `(batch,)`.

    Returns:
        The mean over the batch.

    Example:
        >>> import torch
        >>> from nnkernels.networks.capsule import margin
        >>> margin(torch.tensor([[0.95, 0.05]]), torch.tensor([0])).item()
        0.0
    """
    right = torch.nn.functional.one_hot(classes, lengths.shape[1]).to(lengths)
    loss = right * F.relu(0.9 - lengths).square() + 0.5 * (1 - right) * F.relu(lengths - 0.1).square()
    return loss.sum(1).mean()
