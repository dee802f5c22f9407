"""Layer and rms norm over a dimension that is not the last, as a form; where it lies last in memory it is one of rows.

Backward keeps what that of rows does, the statistics of each position.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor

from ..contracts.normalization import Norm
from ..reference import channel_normalization as reference
from . import normalization as rows
from . import route, sharded
from .route import Gradients


class _Call(NamedTuple):
    norm: Norm
    dim: int


def call(
    norm: Norm, x: Tensor, dim: int, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    """f(norm(x) (weight + offset) + bias + residual) over dimension `dim` of x, in the norm's type.

    The residual has x's shape and type.
    """
    if _lies_last(x, dim):
        residual = residual if residual is None else residual.movedim(dim, -1)
        return rows.call(norm, x.movedim(dim, -1), 1, residual, weight, bias).movedim(-1, dim)
    spec = _Call(norm, dim)
    if x.numel() == 0:
        return _CHANNEL_NORM_ACT.elsewhere(spec, x, residual, weight, bias)
    return route.call(_CHANNEL_NORM_ACT, spec, x, residual, weight, bias)


def _lies_last(x: Tensor, dim: int) -> bool:
    """Whether what is normalised together is adjacent in memory, as the channels of images that lie channels last."""
    return x.shape[dim + 1 :].numel() == 1 or (x.stride(dim) == 1 and x.shape[dim] > 1)


def _shape(x: Tensor, dim: int) -> tuple[int, int, int]:
    return x.shape[:dim].numel(), x.shape[dim], x.shape[dim + 1 :].numel()


def _channels(x: Tensor | None, shape: tuple[int, int, int]) -> Tensor | None:
    """`x` as samples, channels and adjacent positions: itself if it lies so, however far apart the first two lie."""
    if x is None:
        return None
    x = x.reshape(shape)
    return x if x.stride(2) == 1 or shape[2] == 1 else x.contiguous()


class _ChannelNormAct(rows.NormAct):
    family = "channel_normalization"

    def forward(self, kernels: ModuleType, spec: Any, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        x, residual, weight, bias = tensors
        shape = _shape(x, spec.dim)
        y, statistics = kernels.norm_act(
            spec.norm, _channels(x, shape), _channels(residual, shape), rows.flat(weight), rows.flat(bias)
        )
        return y.view(x.shape), statistics

    def backward(self, kernels: ModuleType, spec: Any, wanted: tuple[bool, ...], grad: Any, *kept: Any) -> Gradients:
        x, residual, weight, bias, statistics = kept
        linear = spec.norm.is_linear
        if linear and not any((wanted[0], *wanted[2:])):
            return None, grad.to(x.dtype), None, None
        shape = _shape(x, spec.dim)
        for_x, for_residual, for_weight, for_bias = kernels.norm_act_backward(
            spec.norm, _channels(grad, shape), _channels(x, shape), _channels(residual, shape), rows.flat(weight),
            rows.flat(bias), statistics, wanted[1], wanted[2] or wanted[3],
        )  # fmt: skip
        if linear:
            for_residual = grad.to(x.dtype)
        elif for_residual is not None:
            for_residual = for_residual.view(x.shape)
        return for_x.view(x.shape), for_residual, for_weight, for_bias

    def elsewhere(self, spec: Any, *tensors: Any) -> Any:
        x, residual, weight, bias = tensors
        if sharded.serves(*tensors):
            of = [spec.dim]
            return sharded.locally(
                lambda x, *others: call(spec.norm, x, spec.dim, *others),
                x, [sharded.alike(x, residual), (weight, of), (bias, of)], of,
            )  # fmt: skip
        return self.composed(spec, x, residual, weight, bias)

    def composed(self, spec: Any, x: Tensor, *others: Tensor | None) -> Tensor:
        return reference.composed(spec.norm, x, spec.dim, *others)


_CHANNEL_NORM_ACT = _ChannelNormAct()
