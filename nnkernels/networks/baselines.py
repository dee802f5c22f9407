"""What networks are compared with where scikit-learn has nothing, and how it is judged."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def squared_error(model: Any, data: Any) -> float:
    """The mean square error on a `Split`'s held-out part."""
    return float(((model.predict(data.held_x).reshape(data.held_y.shape) - data.held_y) ** 2).mean())


def above(higher: Any, lower: Any) -> float:
    """How often one of `higher` is above one of `lower`, a tie for half: the area under the ROC curve.

    Example:
        >>> from nnkernels.networks.baselines import above
        >>> above([2.0, 3.0], [1.0, 2.0])
        0.875
    """
    apart = np.subtract.outer(np.asarray(higher), np.asarray(lower))
    return float((apart > 0).mean() + (apart == 0).mean() / 2)


class Polynomial:
    """A polynomial of one variable by least squares, with scikit-learn's `fit` and `predict`."""

    def __init__(self, degree: int) -> None:
        self.degree = degree

    def fit(self, x: np.ndarray, y: np.ndarray) -> Polynomial:
        self.coefficients = np.polyfit(x[:, 0], y, self.degree)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        return np.polyval(self.coefficients, x[:, 0])


class ClassGaussians:
    """For each class the mean and the deviation of each number, to be drawn from; `(samples, features)`."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def fit(self, x: np.ndarray, y: np.ndarray) -> ClassGaussians:
        groups = [x[y == one] for one in range(y.max() + 1)]
        self.mean, self.std = (np.stack([of(group, 0) for group in groups]) for of in (np.mean, np.std))
        return self

    def draw(self, classes: Tensor) -> Tensor:
        mean, std = self.mean[classes], self.std[classes]
        return torch.from_numpy(self.random.normal(mean, std).clip(0, 1))


class Bigram(torch.nn.Module):
    """Each character from the one before it, by counting.

    Args:
        characters: of the alphabet.

    Shape: `(batch, places)` to the logarithms of probabilities, `(batch, places, characters)`.

    Example:
        >>> import torch
        >>> from nnkernels.networks.baselines import Bigram
        >>> text = torch.tensor([[0, 1, 0, 1, 0, 1]])
        >>> Bigram(2).fit(text[:, :-1], text[:, 1:])(torch.tensor([[0]])).argmax().item()
        1
    """

    likely: Tensor

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.register_buffer("likely", torch.full((characters, characters), 1 / characters).log())

    def fit(self, texts: Tensor, following: Tensor) -> Bigram:
        """Counts; each pair is seen a tenth of a time before. Both are `(texts, places)`."""
        characters = len(self.likely)
        pairs = torch.bincount((texts * characters + following).flatten(), minlength=characters**2)
        counts = pairs.view(characters, characters) + 0.1
        self.likely = (counts / counts.sum(1, keepdim=True)).log()
        return self

    def forward(self, texts: Tensor) -> Tensor:
        return self.likely[texts]

    def bits(self, texts: Tensor, following: Tensor) -> float:
        """Bits per character of what follows."""
        return -self(texts).gather(2, following.unsqueeze(2)).mean().item() / torch.log(torch.tensor(2.0)).item()
