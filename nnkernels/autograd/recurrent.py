"""The route from a call of gated recurrent units to their kernels. Backward keeps what it was given."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

from torch import Tensor

from ..reference import recurrent as reference
from . import route, sharded
from .context import differentiable_gradients
from .route import Gradients


class _GruGates(route.Form):
    family = "recurrent"
    tensors = 3

    def forward(self, kernels: ModuleType, spec: Any, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        return (kernels.gru_gates(*map(_rows, tensors)).view(tensors[2].shape),)

    def keeps(self, spec: Any, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        return tensors

    def backward(self, kernels: ModuleType, spec: Any, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        found = kernels.gru_gates_backward(*map(_rows, (grad, *kept)))
        return tuple(one.view(to.shape) for one, to in zip(found, kept, strict=True))

    def differentiable(self, spec: Any, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        return differentiable_gradients(reference.gru_gates, kept, grad)

    def elsewhere(self, spec: Any, *tensors: Any) -> Tensor:
        given, recurred, hidden = tensors
        if sharded.serves(*tensors):
            operands = [sharded.alike(given, one) for one in (recurred, hidden)]
            return sharded.locally(lambda *parts: route.call(_GRU_GATES, spec, *parts), given, operands, whole=[-1])
        return reference.gru_gates(*tensors)


_GRU_GATES = _GruGates()


def gru_gates(given: Tensor, recurred: Tensor, hidden: Tensor) -> Tensor:
    """The next state of checked arguments."""
    return route.call(_GRU_GATES, (), given, recurred, hidden)


def _rows(x: Tensor) -> Tensor:
    """As a matrix with adjacent columns; a copy only where it does not lie so."""
    matrix = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()
