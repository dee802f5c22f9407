"""The self-organising map (Kohonen 1982): units on a grid, of which neighbours learn to stand for what is alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .estimating import Estimator


class SOM(Estimator):
    """A map of samples onto a grid, learned in whole rounds (Kohonen's batch map) with a neighbourhood that shrinks.

    Args:
        rows, columns: of the grid.
        epochs: rounds over all samples.
        radius: of the Gaussian neighbourhood at the end, in units of the grid; it begins at half the grid.

    Shape: `(samples, features)` to the squared distances to the units, `(samples, rows * columns)`.

    Attributes:
        weight: `(rows * columns, features)`, what each unit stands for.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from nnkernels.networks.som import SOM
        >>> x, _ = load_iris(return_X_y=True)
        >>> som = SOM(5, 5).fit(x)
        >>> som.predict(x).shape, som.quantisation_error(x) < 0.5
        ((150,), True)
    """

    weight: Tensor

    def __init__(self, rows: int = 12, columns: int = 12, epochs: int = 50, radius: float = 0.5) -> None:
        super().__init__()
        self.rows, self.columns, self.epochs, self.radius = rows, columns, epochs, radius

    def grid(self) -> Tensor:
        """The units' places, `(rows * columns, 2)`."""
        return torch.cartesian_prod(torch.arange(self.rows), torch.arange(self.columns)).double()

    def learn(self, x: Tensor, y: Any) -> None:
        grid = self.grid().to(x)
        self.keep("weight", self._plane(x, grid))
        between = torch.cdist(grid, grid).square()
        begin = max(self.rows, self.columns) / 2
        for radius in torch.logspace(0, 1, self.epochs, base=self.radius / begin).tolist():
            near = torch.exp(-between / (2 * (begin * radius) ** 2))
            best = self(x).argmin(1)
            counts = torch.bincount(best, minlength=len(grid)).to(x)
            sums = torch.zeros_like(self.weight).index_add_(0, best, x)
            heard = (near @ counts)[:, None]
            self.weight = torch.where(heard > 1e-12, near @ sums / heard.clamp(min=1e-12), self.weight)

    def _plane(self, x: Tensor, grid: Tensor) -> Tensor:
        """The units spread over the plane of the two greatest variances: a map that begins so does not fold."""
        mean = x.mean(0)
        _, sizes, directions = torch.linalg.svd(x - mean, full_matrices=False)
        count = min(2, len(sizes))
        spread = sizes[:count, None] / len(x) ** 0.5 * directions[:count]
        last = grid.amax(0).clamp(min=1)
        return mean + (2 * grid / last - 1)[:, :count] @ spread

    def forward(self, x: Tensor) -> Tensor:
        return (x.square().sum(1, keepdim=True) - 2 * x @ self.weight.T + self.weight.square().sum(1)).clamp(min=0)

    def predict(self, x: Any) -> Any:
        """The number of the nearest unit of each sample, `(samples,)`; its row is this divided by `columns`."""
        return self.outputs(x).argmin(1).numpy()

    def quantisation_error(self, x: Any) -> float:
        """The mean distance of a sample to its nearest unit."""
        return self.outputs(x).amin(1).sqrt().mean().item()

    def topographic_error(self, x: Any) -> float:
        """The share of samples whose two nearest units are no neighbours on the grid, not even across a corner."""
        first, second = self.outputs(x).topk(2, 1, largest=False).indices.unbind(1)
        return ((self.grid()[first] - self.grid()[second]).abs().amax(1) > 1).double().mean().item()

    def score(self, x: Any, y: Any = None) -> float:
        """The quantisation error's negative, so that more is better."""
        return -self.quantisation_error(x)
