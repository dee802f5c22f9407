"""The perceptron (Rosenblatt 1958): it learns from its mistakes alone."""

from __future__ import annotations

import torch
from torch import Tensor

from .estimating import Classifier


class Perceptron(Classifier):
    """One score for each class, linear in the input; the greatest wins.

    A sample whose class does not win is added to the weights of its class and taken from those of the winner. If
    planes part the classes, the mistakes end (Novikoff 1962); if not, they never do.

    Args:
        epochs: how often the samples are seen, at most.
        seed: of their order.

    Shape: `(samples, features)` to `(samples, classes)`.

    Attributes:
        weight: `(classes, features)`.
        bias: `(classes,)`.
        epochs_: how often the samples were seen; the last time without a mistake, if that came to be.

    Example:
        >>> import numpy as np
        >>> from nnkernels.networks.perceptron import Perceptron
        >>> points = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        >>> Perceptron().fit(points, ["no", "no", "no", "yes"]).predict(points)
        array(['no', 'no', 'no', 'yes'], dtype='<U3')
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, epochs: int = 20, seed: int = 0) -> None:
        super().__init__()
        self.epochs, self.seed = epochs, seed

    def learn(self, x: Tensor, y: Tensor) -> None:
        generator = self.generator(x)
        padded = torch.cat([x, x.new_ones(len(x), 1)], 1)
        weight = x.new_zeros(int(y.max()) + 1, padded.shape[1])
        for epoch in range(1, self.epochs + 1):
            self.epochs_, mistakes = epoch, 0
            for at in torch.randperm(len(x), generator=generator).tolist():
                winner, right = int((weight @ padded[at]).argmax()), int(y[at])
                if winner != right:
                    weight[right] += padded[at]
                    weight[winner] -= padded[at]
                    mistakes += 1
            if mistakes == 0:
                break
        self.keep("weight", weight[:, :-1].clone())
        self.keep("bias", weight[:, -1].clone())

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.weight, self.bias)
