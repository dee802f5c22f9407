"""How the statistics of layer and rms norm are kept, and their kernels."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .inner import Inner


def statistics_dtype(x: Tensor) -> torch.dtype:
    return torch.float32 if x.element_size() == 2 else torch.float64


class Kernels(Protocol):
    """The kernels of layer and rms norm with residual and activation."""

    def norm_act(
        self,
        inner: Inner,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        centred: bool,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """f(norm(x) weight + bias + residual) of a matrix, in the type `dtype`, and its rows' statistics.

        They are the mean (if centred) and 1 / deviation.

        x and residual are matrices of one shape with adjacent columns; weight and bias hold a number for each column.
        """

    def norm_act_backward(
        self,
        inner: Inner,
        grad: Tensor,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        statistics: Tensor,
        wants_residual: bool,
        wants_parameters: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of x, residual, weight and bias; None for a residual behind "identity", whose is `grad`.

        `grad` is of the type that `norm_act` was asked for.
        """
