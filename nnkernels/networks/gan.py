"""The generative adversarial network (Goodfellow et al. 2014), told which class to draw (Mirza & Osindero 2014)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import functional as F
from .expecting import expect
from .mlp import MLP


class GAN(torch.nn.Module):
    """Two players: a generator that draws from noise, and a discriminator that tells drawn from real.

    Args:
        shape: of one sample, whose numbers lie between 0 and 1.
        classes: how many there are.
        noise: numbers that a sample is drawn from.
        activation: any name of the catalogue.
        width: units of each hidden layer, of both players.
        depth: hidden layers of each player.
        penalty: of the squared slope of the discriminator at real samples (R1: Mescheder, Geiger & Nowozin 2018),
            without which the players circle each other and what is drawn is of few kinds.

    Shape: noise `(batch, noise)` and class numbers `(batch,)` to samples `(batch, *shape)`.

    Raises:
        ValueError: a tensor has another shape, or there is no such class.

    Example:
        >>> import torch
        >>> from nnkernels.networks.gan import GAN
        >>> network = GAN((1, 8, 8), 10)
        >>> drawn = network.draw(torch.arange(10))
        >>> drawn.shape, network.judge(drawn, torch.arange(10)).shape
        (torch.Size([10, 1, 8, 8]), torch.Size([10]))
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        noise: int = 32,
        activation: str = "leaky_relu",
        width: int = 128,
        depth: int = 2,
        penalty: float = 1.0,
    ) -> None:
        super().__init__()
        self.shape, self.classes, self.noise, self.penalty = tuple(shape), classes, noise, penalty
        size = math.prod(shape)
        self.generator = MLP((noise + classes,), size, activation=activation, width=width, depth=depth)
        self.discriminator = MLP((size + classes,), 1, activation=activation, width=width, depth=depth)

    def forward(self, noise: Tensor, classes: Tensor) -> Tensor:
        expect("the generator", noise, "batch", self.noise)
        return F.sigmoid(self.generator(self._beside(noise, classes))).view(-1, *self.shape)

    def draw(self, classes: Tensor) -> Tensor:
        """Samples of these classes `(batch,)`, from noise of torch's generator: `(batch, *shape)`."""
        return self(torch.randn(len(classes), self.noise, device=classes.device), classes)

    def judge(self, x: Tensor, classes: Tensor) -> Tensor:
        """The logit of being real, of samples `(batch, *shape)` and their classes `(batch,)`: `(batch,)`."""
        expect("the discriminator", x, "batch", *self.shape)
        return self.discriminator(self._beside(x.flatten(1), classes)).squeeze(1)

    def loss(self, x: Tensor, classes: Tensor) -> Tensor:
        """What both players lower at once, each its own part: neither part moves the other player.

        The discriminator's is -log D(x) - log(1 - D(drawn)), the generator's the paper's -log D(drawn), which has a
        slope where the discriminator wins.
        """
        real, drawn = x.detach().requires_grad_(), self.draw(classes)
        judged = self.judge(real, classes)
        (slope,) = torch.autograd.grad(judged.sum(), real, create_graph=True)
        found_out = F.softplus(-judged) + F.softplus(self.judge(drawn.detach(), classes))
        held_fast = {name: one.detach() for name, one in self.discriminator.named_parameters()}
        given = self._beside(drawn.flatten(1), classes)
        taken_for_real = torch.func.functional_call(self.discriminator, held_fast, (given,)).squeeze(1)
        steep = self.penalty * slope.flatten(1).square().sum(1)
        return (found_out + steep + F.softplus(-taken_for_real)).mean()

    def _beside(self, numbers: Tensor, classes: Tensor) -> Tensor:
        expect("the classes of a GAN", classes, len(numbers))
        if not torch.compiler.is_compiling():
            for unknown in classes[(classes < 0) | (classes >= self.classes)][:1].tolist():
                raise ValueError(f"the classes of this GAN are 0 to {self.classes - 1}, got {unknown}")
        return torch.cat([numbers, torch.nn.functional.one_hot(classes, self.classes).to(numbers)], 1)
