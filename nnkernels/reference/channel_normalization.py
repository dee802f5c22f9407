"""Layer and rms norm over channels: each position's are brought together, and are the rows of another family."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import Tensor

from ..contracts.normalization import Norm
from . import normalization as rows


def of_rows(kernels: ModuleType) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`norm_act` and `norm_act_backward` by kernels of rows."""

    def norm_act(
        norm: Norm, x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        y, statistics, _ = kernels.norm_act(norm, _as_rows(x), _as_rows(residual), weight, bias, None)
        return _as_channels(y, x), statistics

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
        grad_x, grad_residual, *parameters, _ = kernels.norm_act_backward(
            norm, _as_rows(grad), _as_rows(x), _as_rows(residual), weight, bias, statistics, None, wants_residual,
            wants_parameters,
        )  # fmt: skip
        grad_residual = grad_residual if grad_residual is None else _as_channels(grad_residual, x)
        return _as_channels(grad_x, x), grad_residual, parameters[0], parameters[1]

    return norm_act, norm_act_backward


def composed(
    norm: Norm, x: Tensor, dim: int, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    """The value for a tensor of any shape, over its dimension `dim`."""
    residual = residual if residual is None else residual.movedim(dim, -1)
    return rows.composed(norm, x.movedim(dim, -1), 1, residual, weight, bias).movedim(-1, dim)


def _as_rows(x: Tensor | None) -> Tensor | None:
    return x if x is None else x.transpose(1, 2).reshape(-1, x.shape[1]).contiguous()


def _as_channels(rows: Tensor, like: Tensor) -> Tensor:
    samples, channels, positions = like.shape
    return rows.view(samples, positions, channels).transpose(1, 2).contiguous()


norm_act, norm_act_backward = of_rows(rows)
