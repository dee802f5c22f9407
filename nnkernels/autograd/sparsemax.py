"""The route from a call of sparsemax to its kernels. Backward keeps the output and nothing else."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor

from ..layout import empty_in, in_memory, line_of, memory_order
from ..reference import sparsemax as reference
from . import route, sharded
from .route import Gradients


class _Sparsemax(route.Form):
    family = "sparsemax"
    tensors = 1

    def forward(self, kernels: ModuleType, dim: int, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        (x,) = tensors
        order = memory_order(x)
        y = empty_in(order, x, x.shape)
        kernels.sparsemax(in_memory(order, x), in_memory(order, y), *line_of(order, x, dim))
        return (y,)

    def keeps(self, dim: int, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        return made

    def backward(self, kernels: ModuleType, dim: int, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        (y,) = kept
        order = memory_order(y)
        grad_x = empty_in(order, y, y.shape)
        given = [in_memory(order, tensor) for tensor in (grad, y, grad_x)]
        kernels.sparsemax_backward(*given, *line_of(order, y, dim))
        return (grad_x,)

    def differentiable(self, dim: int, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        return (reference.pulled(grad, kept[0], dim),)

    def elsewhere(self, dim: int, *tensors: Any) -> Tensor:
        (x,) = tensors
        if sharded.serves(x):
            return sharded.locally(lambda x: sparsemax(x, dim), x, whole=[dim])
        return reference.projected(x, dim)


_SPARSEMAX = _Sparsemax()


def sparsemax(x: Tensor, dim: int) -> Tensor:
    """For a checked tensor; `dim` is not negative."""
    if x.dim() == 0:
        return sparsemax(x.view(1), 0).view(())
    if x.numel() == 0:
        return _SPARSEMAX.elsewhere(dim, x)
    return route.call(_SPARSEMAX, dim, x)
