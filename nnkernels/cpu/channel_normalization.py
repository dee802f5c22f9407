"""Layer and rms norm over channels in C++: each position's are brought together, and are the rows of another family."""

from __future__ import annotations

from torch import Tensor

from ..contracts.normalization import Norm
from ..reference.channel_normalization import norm_act_backward_of_rows, norm_act_of_rows
from . import normalization as rows


def norm_act(
    norm: Norm, x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    return norm_act_of_rows(rows, norm, x, residual, weight, bias)


def norm_act_backward(
    norm: Norm,
    grad: Tensor,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    wants_residual: bool,
    wants_parameters: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    return norm_act_backward_of_rows(
        rows, norm, grad, x, residual, weight, bias, statistics, wants_residual, wants_parameters
    )
