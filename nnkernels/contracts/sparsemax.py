"""Sparsemax, the point of the probability simplex that is nearest to a row of logits, and its kernels.

    y_i = max(z_i - t, 0)                       t such that the row sums to 1; the support is where z_i > t
    grad_z_i = grad_i - mean of grad over the support on the support, 0 off it

The threshold t = (sum of z over the support - 1) / (size of the support) is found by Newton's method on the sum's
excess over 1, which is convex and piecewise linear in t (Michelot 1986): from t = max z - 1, which is not above the
solution, each step drops what lies below the threshold, and the support is right once a step drops nothing. Value and
slope of the excess fall together by a factor of four in each step at least (Radzik 1992), so that a row of n needs
O(log n) passes over what is left of it.

Small results are differences of nearly equal numbers, and have to be right to their last digits. So logits move by
`shift` only where that is exact: by their maximum where its magnitude is 2 at least, and not at all below that. What
is then in (-3, 2) is held as a multiple of 2^-22, whose sums double precision holds exactly, and the rest.

A row with a NaN or +inf, or with nothing but -inf, is NaN. Backward reads the support from the output alone, so that
no positive result may be rounded to 0: in float16, the least is 2^-24.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor

LOWEST = -4.0
"""Shifted logits below this one are taken for it, as no threshold is so low."""

GRID = 1.5 * 2.0**30
"""Added to a double in (-4, 4) and subtracted again, leaves the nearest multiple of 2^-22."""

LEAST_HALF = 2.0**-24
"""The least positive float16."""


class Kernels(Protocol):
    """The kernels of sparsemax."""

    def sparsemax(self, x: Tensor, y: Tensor, size: int, inner: int) -> None:
        """Writes y, both contiguous: rows of `size` logits, of which `inner` lie side by side."""

    def sparsemax_backward(self, grad: Tensor, y: Tensor, grad_x: Tensor, size: int, inner: int) -> None:
        """Writes the gradient of the logits, all laid out alike; NaN where y is."""


if TYPE_CHECKING:
    from ..cpu import sparsemax as cpu
    from ..reference import sparsemax as reference
    from ..triton import sparsemax as triton

    _: tuple[Kernels, ...] = (cpu, triton, reference)
