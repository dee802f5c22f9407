"""Radial basis functions: centres, and how near each sample is to them.

`RBFRegressor` has a centre at each sample and goes near all of them (Broomhead & Lowe 1988). `RBFNetworkClassifier` has
few centres, found by k-means, and a linear readout (Moody & Darken 1989).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional as F
from .estimating import Classifier, Estimator, Regressor
from .readout import one_hot, ridge


def k_means(x: Tensor, count: int, generator: torch.Generator, rounds: int = 50) -> Tensor:
    """`count` centres of `(samples, features)` by Lloyd's (1982) rule from k-means++ (Arthur & Vassilvitskii 2007).

    Returns:
        `(count, features)`; a centre that no sample is nearest to stays where it was.
    """
    chosen = [int(torch.randint(len(x), (1,), generator=generator))]
    nearest = (x - x[chosen[0]]).square().sum(1)
    for _ in range(count - 1):
        likely = nearest.cpu().double() if float(nearest.sum()) > 0 else torch.ones(len(x)).double()
        chosen.append(int(torch.multinomial(likely, 1, generator=generator)))
        nearest = torch.minimum(nearest, (x - x[chosen[-1]]).square().sum(1))
    centers = x[chosen].clone()
    for _ in range(rounds):
        owner = torch.cdist(x, centers).argmin(1)
        sizes = torch.bincount(owner, minlength=count).to(x)
        sums = torch.zeros_like(centers).index_add_(0, owner, x)
        moved = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centers)
        if torch.equal(moved, centers):
            break
        centers = moved
    return centers


class _Radial(Estimator):
    """What both share: `(samples, features)` to `(samples, outputs)`, through the nearness to each centre.

    Args:
        centers: how many; None puts one at each sample.
        width: of the Gaussians, in units of a typical distance: that of a sample to the mean where each sample is a
            centre, else that of a centre to its nearest neighbour. Greater than 0.
        penalty: of the readout's squared weights, at least 0.
        seed: of k-means.
    """

    positions: Tensor
    gamma: Tensor
    readout: Tensor
    offset: Tensor

    def __init__(self, centers: int | None, width: float, penalty: float, seed: int) -> None:
        super().__init__()
        self.centers, self.width, self.penalty, self.seed = centers, width, penalty, seed

    def learn(self, x: Tensor, y: Tensor) -> None:
        if self.width <= 0:
            raise ValueError(f"the width of a radial basis function has to be greater than 0, got {self.width}")
        every = self.centers is None or self.centers >= len(x)
        positions = x.clone() if every else k_means(x, self.centers or 1, self.generator(x))
        if every:
            typical = (x - x.mean(0)).square().sum(1).mean().sqrt()
        else:
            apart = torch.cdist(positions, positions).fill_diagonal_(torch.inf)
            typical = apart.min(1).values.mean() if len(positions) > 1 else x.std()
        spread = self.width * torch.where((typical > 0) & typical.isfinite(), typical, torch.ones_like(typical))
        self.keep("positions", positions)
        self.keep("gamma", 1 / (2 * spread.square()))
        targets = y if y.is_floating_point() else one_hot(y, x)
        readout, offset = ridge(F.gaussian_rbf(x, positions, self.gamma), targets, self.penalty)
        self.keep("readout", readout)
        self.keep("offset", offset)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.offset, F.gaussian_rbf(x, self.positions, self.gamma), self.readout)


class RBFRegressor(_Radial, Regressor):
    """Broomhead & Lowe's interpolation, softened by a penalty: a centre at each sample by default.

    Args:
        centers, width, penalty, seed: see `RBFNetworkClassifier`.

    Shape: `(samples, features)` to `(samples, outputs)`.

    Example:
        >>> import numpy as np
        >>> from nnkernels.networks.rbf import RBFRegressor
        >>> x = np.linspace(-3, 3, 40)[:, None]
        >>> RBFRegressor(width=0.5, penalty=1e-6).fit(x, np.sinc(x[:, 0])).score(x, np.sinc(x[:, 0])) > 0.999
        True
    """

    def __init__(self, centers: int | None = None, width: float = 1.0, penalty: float = 1e-3, seed: int = 0) -> None:
        super().__init__(centers, width, penalty, seed)


class RBFNetworkClassifier(_Radial, Classifier):
    """Moody & Darken's network of locally tuned units.

    Args:
        centers: how many; None puts one at each sample.
        width: of the Gaussians, in units of the mean distance between neighbouring centres; greater than 0.
        penalty: of the readout's squared weights, at least 0.
        seed: of k-means.

    Shape: `(samples, features)` to scores `(samples, classes)`.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from nnkernels.networks.rbf import RBFNetworkClassifier
        >>> x, y = load_iris(return_X_y=True)
        >>> RBFNetworkClassifier(centers=20, width=2.0).fit(x, y).score(x, y) > 0.95
        True
    """

    def __init__(self, centers: int | None = 100, width: float = 1.0, penalty: float = 1e-3, seed: int = 0) -> None:
        super().__init__(centers, width, penalty, seed)
