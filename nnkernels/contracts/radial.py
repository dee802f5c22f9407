"""Gaussian radial basis functions, and their kernels.

    y[i, j] = exp(-gamma[j] |x[i] - c[j]|^2)

With w = grad y:

    grad_x[i]     = -sum over j of 2 gamma[j] w[i, j] (x[i] - c[j])
    grad_c[j]     =  sum over i of 2 gamma[j] w[i, j] (x[i] - c[j])
    grad_gamma[j] = -sum over i of w[i, j] |x[i] - c[j]|^2

Distances are sums of squared differences, which are formed where they are used and never stored. The product of
matrices in |x|^2 - 2 x c + |c|^2 would be faster for many features, but its error is that of the largest term: between
vectors of length 100, a distance below 0.03 has no digit left in float32.

Kernels take contiguous matrices of one type: x as (rows, features) and the centers as (centers, features). Gamma is a
vector of that type with one number, or one for each center, or None for a constant. Where it is negative, y is NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


class Kernels(Protocol):
    """The kernels of radial basis functions."""

    def gaussians(self, x: Tensor, centers: Tensor, gamma: Tensor | None, constant: float) -> Tensor:
        """y, (rows, centers)."""

    def gaussians_backward(
        self,
        grad: Tensor,
        x: Tensor,
        centers: Tensor,
        gamma: Tensor | None,
        constant: float,
        wanted: tuple[bool, bool, bool],
    ) -> Gradients:
        """The gradients of x, of the centers and of gamma that are wanted, in their shapes; None for the others."""


if TYPE_CHECKING:
    from ..cpu import radial as cpu
    from ..reference import radial as reference
    from ..triton import radial as triton

    _: tuple[Kernels, ...] = (cpu, triton, reference)
