"""Chow & Liu's tree (1968): a probabilistic graphical model, not a neural network; it is counted, not trained.

Of all distributions in which each variable depends on one other at most, it is the nearest to the samples: the spanning
tree of the greatest mutual information. One tree for each class makes a classifier (Friedman et al. 1997).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .estimating import Classifier, Estimator


def bin_edges(x: Tensor, bins: int | None) -> Tensor:
    """Between which numbers a feature's values are alike, `(features, edges)`, ascending, filled up with infinity.

    Args:
        x: `(samples, features)`.
        bins: as many as equal a share of the samples falls into; None has one for each value there is.
    """
    if bins is not None and bins < 2:
        raise ValueError(f"Chow & Liu's tree needs at least 2 bins, got {bins}")
    edges = []
    for column in x.T:
        found = column.unique()
        if bins is None:
            edges.append((found[1:] + found[:-1]) / 2)
        else:
            edges.append(column.quantile(torch.arange(1, bins).to(x) / bins).unique())
    longest = max(map(len, edges))
    return torch.stack([torch.nn.functional.pad(one, (0, longest - len(one)), value=torch.inf) for one in edges])


def spanning_tree(weight: Tensor) -> Tensor:
    """The parent of each node in the spanning tree of the greatest weight, by Prim's (1957) rule from node 0.

    Args:
        weight: `(nodes, nodes)`, symmetric.

    Returns:
        `(nodes,)`; the root is its own parent.

    Example:
        >>> import torch
        >>> from nnkernels.networks.chow_liu import spanning_tree
        >>> spanning_tree(torch.tensor([[0.0, 1.0, 3.0], [1.0, 0.0, 2.0], [3.0, 2.0, 0.0]]))
        tensor([0, 2, 0])
    """
    parent = torch.zeros(len(weight), dtype=torch.int64, device=weight.device)
    outside = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
    outside[0], best = False, weight[0].clone()
    for _ in range(len(weight) - 1):
        joined = int(torch.where(outside, best, -torch.inf).argmax())
        outside[joined] = False
        nearer = outside & (weight[joined] > best)
        parent[nearer], best[nearer] = joined, weight[joined][nearer]
    return parent


def tree_of(values: Tensor, bins: int, prior: float) -> tuple[Tensor, Tensor]:
    """The best tree of samples, and its tables.

    Args:
        values: `(samples, features)`, numbers of bins.
        bins: how many there are.
        prior: how many samples each pair of values is thought to have been seen in before, all pairs together.

    Returns:
        parent `(features,)`, and log p(value | parent's value), `(features, parent's value, value)`, the
        root's rows all alike.
    """
    features = values.shape[1]
    seen = torch.nn.functional.one_hot(values, bins).flatten(1).double()
    pairs = (seen.T @ seen).view(features, bins, features, bins).transpose(1, 2)
    alone = pairs.diagonal(dim1=0, dim2=1).diagonal(dim1=0, dim2=1) + prior / bins
    pairs = (pairs + prior / bins**2) / (len(values) + prior)
    alone = alone / alone.sum(1, keepdim=True)
    information = (pairs * (pairs.log() - alone.log()[:, None, :, None] - alone.log()[None, :, None])).sum((2, 3))
    parent, nodes = spanning_tree(information), torch.arange(features, device=values.device)
    joint = pairs[parent, nodes]
    tables = (joint / joint.sum(2, keepdim=True)).log()
    tables[0] = alone[0].log()
    return parent, tables


class _Trees(Estimator):
    """What both share: bins, and trees over them.

    Args:
        bins: into which each feature's values are put, as many samples in each; None has one for each value there is.
        prior: samples thought to have been seen before, spread evenly over all values; greater than 0.
    """

    edges: Tensor
    parents: Tensor
    tables: Tensor

    def __init__(self, bins: int | None = 4, prior: float = 1.0) -> None:
        super().__init__()
        self.bins, self.prior = bins, prior

    def values(self, x: Tensor) -> Tensor:
        """The number of the bin of each number, `(samples, features)`."""
        return torch.searchsorted(self.edges, x.T.contiguous()).T

    def grow(self, x: Tensor, groups: list[Tensor]) -> None:
        """Finds the bins, and one tree for each group of samples."""
        if self.prior <= 0:
            raise ValueError(f"the prior of Chow & Liu's tree has to be greater than 0, got {self.prior}")
        self.keep("edges", bin_edges(x, self.bins))
        values, bins = self.values(x), self.edges.shape[1] + 1
        trees = [tree_of(values[group], bins, self.prior) for group in groups]
        self.keep("parents", torch.stack([parent for parent, _ in trees]))
        self.keep("tables", torch.stack([tables for _, tables in trees]).to(x))

    def likelihoods(self, x: Tensor) -> Tensor:
        """log p of each sample in each tree, `(samples, trees)`."""
        values = self.values(x)
        nodes = torch.arange(x.shape[1], device=x.device)
        each = [
            tables[nodes, values[:, parent], values].sum(1)
            for parent, tables in zip(self.parents, self.tables, strict=True)
        ]
        return torch.stack(each, 1)


class ChowLiu(_Trees):
    """The distribution of samples, as a tree of their features.

    Args:
        bins, prior: see `ChowLiuClassifier`.

    Shape: `(samples, features)` to log p in nats, `(samples,)`.

    Attributes:
        parents: `(1, features)`, of each feature in the tree; the root's is itself.

    Example:
        >>> import torch
        >>> from nnkernels.networks.chow_liu import ChowLiu
        >>> one = torch.tensor([0.0, 1.0]).repeat(500)
        >>> twice = torch.stack([one, one, 1 - one], 1)
        >>> round(ChowLiu(bins=None).fit(twice).score(twice), 2)  # log 1/2, where independent features have log 1/8
        -0.69
    """

    def learn(self, x: Tensor, y: Any) -> None:
        self.grow(x, [torch.arange(len(x), device=x.device)])

    def forward(self, x: Tensor) -> Tensor:
        return self.likelihoods(x)[:, 0]

    def score(self, x: Any, y: Any = None) -> float:
        """The mean of log p, in nats."""
        return self.outputs(x).double().mean().item()


class ChowLiuClassifier(_Trees, Classifier):
    """A tree for each class, and Bayes' rule.

    Args:
        bins: into which each feature's values are put, as many samples in each; None has one for each value there is.
        prior: samples thought to have been seen before, spread evenly over all values; greater than 0.

    Shape: `(samples, features)` to log p of sample and class together, `(samples, classes)`.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from nnkernels.networks.chow_liu import ChowLiuClassifier
        >>> x, y = load_iris(return_X_y=True)
        >>> ChowLiuClassifier().fit(x, y).score(x, y) > 0.9
        True
    """

    shares: Tensor

    def learn(self, x: Tensor, y: Tensor) -> None:
        groups = [(y == label).nonzero()[:, 0] for label in range(int(y.max()) + 1)]
        self.grow(x, groups)
        self.keep("shares", (torch.tensor([len(group) for group in groups]).to(x) / len(x)).log())

    def forward(self, x: Tensor) -> Tensor:
        return self.likelihoods(x) + self.shares
