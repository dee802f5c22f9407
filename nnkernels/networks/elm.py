"""The extreme learning machine (Huang, Zhu & Siew 2006): a hidden layer that stays random, and a readout solved for."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .activating import function
from .estimating import Classifier, Estimator, Regressor
from .readout import one_hot, ridge


class _Machine(Estimator):
    """What both share.

    Args:
        hidden: units of the random layer.
        activation: the name of a stateless elementwise activation.
        penalty: of the readout's squared weights, at least 0.
        gain: of the random weights; 1 gives each unit an input of variance 1 if the features have it.
        seed: of the random weights.

    Shape: `(samples, features)` to `(samples, outputs)`.
    """

    weight: Tensor
    bias: Tensor
    readout: Tensor
    offset: Tensor

    def __init__(
        self, hidden: int = 1000, activation: str = "tanh", penalty: float = 1.0, gain: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__()
        self.hidden, self.penalty, self.gain, self.seed = hidden, penalty, gain, seed
        self.activation = activation

    def learn(self, x: Tensor, y: Tensor) -> None:
        generator = self.generator(x)
        scale = self.gain / math.sqrt(x.shape[1])
        self.keep("weight", scale * torch.randn(x.shape[1], self.hidden, generator=generator).to(x))
        self.keep("bias", self.gain * torch.randn(self.hidden, generator=generator).to(x))
        targets = y if y.is_floating_point() else one_hot(y, x)
        readout, offset = ridge(self.features(x), targets, self.penalty)
        self.keep("readout", readout)
        self.keep("offset", offset)

    def features(self, x: Tensor) -> Tensor:
        """What the random layer makes of `(samples, features)`: `(samples, hidden)`."""
        return function(self.activation)(torch.addmm(self.bias, x, self.weight))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.offset, self.features(x), self.readout)


class ELMClassifier(_Machine, Classifier):
    """Scores of classes; the arguments are `hidden`, `activation`, `penalty`, `gain` and `seed`.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from nnkernels.networks.elm import ELMClassifier
        >>> x, y = load_iris(return_X_y=True)
        >>> ELMClassifier(hidden=100).fit(x, y).score(x, y) > 0.9
        True
    """


class ELMRegressor(_Machine, Regressor):
    """Values; the arguments are those of `ELMClassifier`."""
