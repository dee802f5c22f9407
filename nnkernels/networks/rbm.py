"""The restricted Boltzmann machine (Smolensky 1986), trained by contrastive divergence (Hinton 2002)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import functional as F
from ..names import check
from .estimating import Estimator

VISIBLE = ("bernoulli", "gaussian")


class RBM(Estimator):
    """Visible and hidden units, each of the ones tied to each of the others, and to none of their own.

    Every weight is moved towards what its two units do together under the data, and away from what they do after the
    network has dreamt for some steps.

    Args:
        hidden: how many hidden units, each 0 or 1.
        visible: "bernoulli", each 0 or 1, or the probability of 1; or "gaussian", of any number and the deviation 1.
        epochs: how often the samples are seen.
        lr: of the weights; it falls to 0 along a line. Gaussian units need less than Bernoulli's.
        steps: of the dream (CD-k).
        batch: samples of one step.
        seed: of the weights, the order and the dreams.

    Shape: `(samples, features)` to the probabilities of the hidden units, `(samples, hidden)`.

    Attributes:
        weight: `(hidden, features)`.
        bias: of the hidden units, `(hidden,)`.
        offset: of the visible ones, `(features,)`.

    Raises:
        ValueError: a Bernoulli unit is given a number that is not between 0 and 1.

    Example:
        >>> import torch
        >>> from nnkernels.networks.rbm import RBM
        >>> x = torch.eye(4).repeat(50, 1)
        >>> rbm = RBM(8, "bernoulli", epochs=50, lr=0.2).fit(x)
        >>> bool(rbm.free_energy(torch.eye(4)).mean() < rbm.free_energy(torch.ones(1, 4)))
        True
    """

    _kind = "transformer"
    weight: Tensor
    bias: Tensor
    offset: Tensor

    def __init__(
        self,
        hidden: int = 64,
        visible: str = "gaussian",
        epochs: int = 10,
        lr: float = 0.01,
        steps: int = 1,
        batch: int = 20,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.hidden, self.visible, self.epochs, self.lr = hidden, visible, epochs, lr
        self.steps, self.batch, self.seed = steps, batch, seed

    def learn(self, x: Tensor, y: Any) -> None:
        check("kind of visible units", self.visible, VISIBLE)
        self._check_range(x)
        draws = self.generator(x)
        self.keep("weight", 0.01 * torch.randn(self.hidden, x.shape[1], generator=draws).to(x))
        self.keep("bias", x.new_zeros(self.hidden))
        mean = x.mean(0)
        self.keep("offset", torch.logit(mean.clamp(0.01, 0.99)) if self.visible == "bernoulli" else mean)
        velocity = [torch.zeros_like(one) for one in self.buffers()]
        with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
            torch.manual_seed(draws.initial_seed())
            for epoch in range(self.epochs):
                lr, momentum = self.lr * (1 - epoch / self.epochs), 0.5 if epoch < 5 else 0.9  # Hinton 2010, section 9
                for at in torch.randperm(len(x), generator=draws).to(x.device).split(self.batch):
                    for one, moved, slope in zip(self.buffers(), velocity, self._slopes(x[at]), strict=True):
                        one += moved.mul_(momentum).add_(slope, alpha=lr)

    def _slopes(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How much more the units do under the data than in the dream: of the weight, the bias and the offset.

        Units of a dream are drawn from torch's generator of the device.
        """
        odds, dreamt = self._odds(x), x
        seen = F.sigmoid(odds)
        for _ in range(self.steps):
            dreamt = self.given(F.bernoulli_straight_through(odds))
            odds = self._odds(dreamt)
        on = F.sigmoid(odds)
        return (seen.T @ x - on.T @ dreamt) / len(x), (seen - on).mean(0), (x - dreamt).mean(0)

    def _odds(self, x: Tensor) -> Tensor:
        """The log-odds of the hidden units."""
        return torch.nn.functional.linear(x, self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        self._check_range(x)
        return F.sigmoid(self._odds(x))

    def given(self, hidden: Tensor) -> Tensor:
        """The mean of the visible units, `(samples, features)`, where the hidden ones are `(samples, hidden)`."""
        field = torch.addmm(self.offset, hidden, self.weight)
        return F.sigmoid(field) if self.visible == "bernoulli" else field

    def reconstruct(self, x: Tensor) -> Tensor:
        """`(samples, features)` to the hidden units and back, without a draw."""
        return self.given(self(x))

    def free_energy(self, x: Tensor) -> Tensor:
        """-log of the probability of each of `(samples, features)`, up to a constant: `(samples,)`."""
        self._check_range(x)
        own = x @ self.offset if self.visible == "bernoulli" else -(x - self.offset).square().sum(1) / 2
        return -own - F.softplus(self._odds(x)).sum(1)

    def transform(self, x: Any) -> Any:
        """The probabilities of the hidden units, as an array: features for what comes next in a pipeline."""
        return self.predict(x)

    def fit_transform(self, x: Any, y: Any = None) -> Any:
        return self.fit(x).predict(x)

    def score(self, x: Any, y: Any = None) -> float:
        """The negative of the mean square error of what comes back, so that more is better."""
        samples = self.ready(x)
        return -(self.reconstruct(samples) - samples).square().mean().item()

    def _check_range(self, x: Tensor) -> None:
        if self.visible == "gaussian" or torch.compiler.is_compiling():
            return
        outside = (x < 0) | (x > 1)
        if bool(outside.any()):
            raise ValueError(f"a Bernoulli unit of an RBM takes numbers from 0 to 1, got {x[outside][0].item():g}")
