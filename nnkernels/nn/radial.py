"""Radial basis functions as a module: centers and widths that are learned."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..arguments import number
from ..functional.radial import gaussian_rbf

__all__ = ["GaussianRBF"]


class GaussianRBF(torch.nn.Module):
    """exp(-gamma |x - c|^2) for each of the learned centers; see `nnkernels.functional.gaussian_rbf`.

    The logarithm of gamma is learned, so that gamma stays positive.

    Args:
        in_features: of each input vector.
        num_centers: how many.
        gamma: 1 / (2 width^2) at the beginning, positive.
        per_center: whether each center has a gamma of its own; else all share one.
        learn_gamma: whether gamma is learned.

    Attributes:
        centers: `(num_centers, in_features)`, drawn from the standard normal distribution.
        log_gamma: `(num_centers,)` or `()`; a buffer if it is not learned.

    Raises:
        ValueError: `gamma` is not positive and finite.

    Shape: `(*, in_features)` to `(*, num_centers)`.
    Source: Broomhead & Lowe 1988, Multivariable Functional Interpolation and Adaptive Networks.

    Example:
        >>> import torch, nnkernels
        >>> network = torch.nn.Sequential(nnkernels.nn.GaussianRBF(2, 50), torch.nn.Linear(50, 3))
        >>> network(torch.randn(16, 2)).shape
        torch.Size([16, 3])
    """

    log_gamma: Tensor

    def __init__(
        self,
        in_features: int,
        num_centers: int,
        gamma: float = 1.0,
        *,
        per_center: bool = False,
        learn_gamma: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.num_centers = in_features, num_centers
        self.gamma = number("GaussianRBF", "gamma", gamma)
        if not 0 < self.gamma < math.inf:
            raise ValueError(f"GaussianRBF(): gamma must be positive and finite, got {gamma}")
        self.centers = torch.nn.Parameter(torch.empty(num_centers, in_features, device=device, dtype=dtype))
        log_gamma = self.centers.new_empty((num_centers,) if per_center else ()).detach()
        if learn_gamma:
            self.log_gamma = torch.nn.Parameter(log_gamma)
        else:
            self.register_buffer("log_gamma", log_gamma)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        torch.nn.init.normal_(self.centers)
        torch.nn.init.constant_(self.log_gamma, math.log(self.gamma))

    def forward(self, input: Tensor) -> Tensor:
        return gaussian_rbf(input, self.centers, self.log_gamma.exp())

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.num_centers}, gamma={self.gamma}, per_center={self.log_gamma.dim() == 1}, "
            f"learn_gamma={self.log_gamma.requires_grad}"
        )
