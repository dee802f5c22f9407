"""The linear layer that is solved for instead of trained, behind features that are fixed."""

from __future__ import annotations

import torch
from torch import Tensor


def one_hot(classes: Tensor, like: Tensor) -> Tensor:
    """Class numbers `(samples,)` as targets of a least-squares fit, `(samples, classes)`, of the type of `like`."""
    return torch.nn.functional.one_hot(classes).to(like)


def ridge(features: Tensor, targets: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """The weights and the bias that minimise |features weight + bias - targets|^2 + penalty |weight|^2.

    The bias is not penalised. Solved in float64 by Cholesky's method in the smaller of the two dimensions.

    Args:
        features: `(samples, features)`.
        targets: `(samples, outputs)`.
        penalty: at least 0; 0 is the least-squares fit, of the least norm where there are many.

    Returns:
        weight `(features, outputs)` and bias `(outputs,)`, in the features' type.

    Raises:
        ValueError: the penalty is negative.

    Example:
        >>> import torch
        >>> from nnkernels.networks.readout import ridge
        >>> x = torch.randn(20, 3)
        >>> weight, bias = ridge(x, x.sum(1, keepdim=True) + 5, 0.0)
        >>> torch.allclose(weight, torch.ones(3, 1), atol=1e-4), torch.allclose(bias, torch.tensor([5.0]), atol=1e-4)
        (True, True)
    """
    if penalty < 0:
        raise ValueError(f"the penalty of a ridge fit has to be at least 0, got {penalty}")
    x, y = features.double(), targets.double()
    middle, height = x.mean(0), y.mean(0)
    x, y = x - middle, y - height
    samples, size = x.shape
    if penalty == 0:
        weight = torch.linalg.pinv(x) @ y
    elif size <= samples:
        weight = _solved(x.T @ x, penalty, x.T @ y)
    else:
        weight = x.T @ _solved(x @ x.T, penalty, y)
    return weight.to(features), (height - middle @ weight).to(features)


def _solved(gram: Tensor, penalty: float, right: Tensor) -> Tensor:
    gram.diagonal().add_(penalty)
    return torch.cholesky_solve(right, torch.linalg.cholesky(gram))
