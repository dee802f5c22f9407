"""How the statistics of layer and rms norm are kept, and their kernels."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from ..registry import IDENTITY
from .inner import Inner


class Gate(IntEnum):
    """Where the activation is the residual's, and multiplies."""

    NOWHERE = 0
    """f(norm(x) weight + bias + residual)"""
    AFTER = 1
    """(norm(x) weight + bias) f(residual)"""
    BEFORE = 2
    """norm(x f(residual)) weight + bias"""


class Norm(NamedTuple):
    """What a norm is, but for its tensors.

    Attributes:
        inner: the activation behind it.
        eps: added to the variance.
        centred: whether the mean is taken away.
        dtype: of the result.
        offset: added to the weight.
        gates: whether the residual is a gate, and where.
    """

    inner: Inner
    eps: float
    centred: bool
    dtype: torch.dtype
    offset: float = 0.0
    gates: Gate = Gate.NOWHERE

    @property
    def is_linear(self) -> bool:
        """Whether nothing but sums follows the weight, so that the gradient of what is added is the result's."""
        return self.inner.name == IDENTITY.name and not self.gates


def statistics_dtype(x: Tensor) -> torch.dtype:
    return torch.float32 if x.element_size() == 2 else torch.float64


def summed_dtype(x: Tensor, addend: Tensor | None) -> torch.dtype:
    """The type of x, or of its sum with the addend, which is the one that torch gives it."""
    return x.dtype if addend is None else torch.promote_types(x.dtype, addend.dtype)


class Kernels(Protocol):
    """The kernels of layer and rms norm with residual and activation, of a matrix or of a sum of two."""

    def norm_act(
        self,
        norm: Norm,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        addend: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """f(norm(x + addend) (weight + offset) + bias + residual) of a matrix, in the norm's type, its rows'
        statistics, and x + addend if there is an addend, in the type `summed_dtype`. With `gates` it is another
        function of the same tensors.

        The statistics are those of what is normalised, a sum or a product: the mean (if centred) and 1 / deviation.

        x, residual and addend are matrices of one shape with adjacent columns; weight and bias hold a number for each
        column. The residual has x's type.
        """

    def norm_act_backward(
        self,
        norm: Norm,
        grad: Tensor,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        statistics: Tensor,
        grad_sum: Tensor | None,
        wants_residual: bool,
        wants_parameters: bool,
        also: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of x, residual, weight and bias; None for a residual of a linear norm, whose is `grad`. The
        last is that of x once more, in the type `also` if one is given.

        `grad` is of the norm's type. x is what was normalised: the sum, if there was an addend; `grad_sum`, its
        gradient from elsewhere, joins.
        """


if TYPE_CHECKING:
    from ..cpu import normalization as cpu
    from ..reference import normalization as reference
    from ..triton import normalization as triton

    _: tuple[Kernels, ...] = (cpu, triton, reference)
