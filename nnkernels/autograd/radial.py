"""The route from a call of radial basis functions to their kernels. Backward keeps what it was given."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

from torch import Tensor

from ..reference import radial as reference
from . import route, sharded
from .context import differentiable_gradients
from .route import Gradients


class _Gaussians(route.Form):
    """Its spec is gamma, or None where that is a tensor of its own."""

    family = "radial"
    tensors = 3

    def forward(self, kernels: ModuleType, spec: Any, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        x, centers, gamma = tensors
        y = kernels.gaussians(*_matrices(x, centers, gamma), spec or 0.0)
        return (y.view(*x.shape[:-1], len(centers)),)

    def keeps(self, spec: Any, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        return tensors

    def backward(self, kernels: ModuleType, spec: Any, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        x, centers, gamma = kept
        found = kernels.gaussians_backward(_matrix(grad), *_matrices(x, centers, gamma), spec or 0.0, wanted)
        return tuple(None if one is None else one.view(to.shape) for one, to in zip(found, kept, strict=True))

    def differentiable(self, spec: Any, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        given = [tensor for tensor in kept if tensor is not None]
        found = differentiable_gradients(lambda *tensors: _composed(spec, *tensors), given, grad)
        return (*found, None)[:3]

    def elsewhere(self, spec: Any, *tensors: Any) -> Tensor:
        x, centers, gamma = tensors
        if sharded.serves(x, centers, gamma):
            operands = [(one, [None] * (0 if one is None else one.dim())) for one in (centers, gamma)]
            return sharded.locally(lambda *parts: route.call(_GAUSSIANS, spec, *parts), x, operands, whole=[-1])
        return _composed(spec, x, centers, gamma)


_GAUSSIANS = _Gaussians()


def gaussians(x: Tensor, centers: Tensor, gamma: Tensor | float) -> Tensor:
    """exp(-gamma |x - c|^2) of checked arguments."""
    if isinstance(gamma, Tensor):
        return route.call(_GAUSSIANS, None, x, centers, gamma)
    return route.call(_GAUSSIANS, gamma, x, centers, None)


def _composed(spec: float | None, x: Tensor, centers: Tensor, gamma: Tensor | None = None) -> Tensor:
    return reference.composed(x, centers, spec or 0.0 if gamma is None else gamma)


def _matrix(x: Tensor) -> Tensor:
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).contiguous()


def _matrices(x: Tensor, centers: Tensor, gamma: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    return _matrix(x), centers.contiguous(), None if gamma is None else gamma.reshape(-1).contiguous()
