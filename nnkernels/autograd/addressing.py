"""The route from a call of content addressing to its kernels. Backward keeps the operands and nothing else."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor

from ..contracts import addressing
from ..contracts.addressing import Operands
from ..dispatch import chosen
from ..layout import empty_in, memory_order
from ..reference import addressing as reference
from . import route, sharded
from .context import differentiable_gradients
from .route import Gradients


class _Addressing(route.Form):
    family = "addressing"
    tensors = 7

    def forward(self, kernels: ModuleType, eps: float, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        operands = Operands(*tensors)
        where = operands.memory.new_empty((*operands.strength.shape, operands.memory.shape[1]))
        kernels.content_addressing(operands, eps, where)
        return (where,)

    def keeps(self, eps: float, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        return tensors

    def backward(
        self, kernels: ModuleType, eps: float, wanted: tuple[bool, ...], grad: Tensor, *kept: Any
    ) -> Gradients:
        found = addressing.Gradients(*map(_gradient_of, kept, wanted))
        kernels.content_addressing_backward(grad, Operands(*kept), eps, found)
        return found

    def differentiable(self, eps: float, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        there = [at for at, tensor in enumerate(kept) if tensor is not None]

        def value(*tensors: Tensor) -> Tensor:
            given: list[Any] = [None] * self.tensors
            for at, tensor in zip(there, tensors, strict=True):
                given[at] = tensor
            return reference.composed(Operands(*given), eps)

        found = dict(zip(there, differentiable_gradients(value, [kept[at] for at in there], grad), strict=True))
        return tuple(found.get(at) for at in range(self.tensors))

    def elsewhere(self, eps: float, *tensors: Any) -> Tensor:
        memory, *others = tensors
        if sharded.serves(*tensors):
            operands = [(other, (0, None, None)) for other in others]
            return sharded.locally(lambda *parts: route.call(_ADDRESSING, eps, *parts), memory, operands, whole=[1, 2])
        return reference.composed(Operands(*tensors), eps)


_ADDRESSING = _Addressing()


def call(operands: Operands, eps: float) -> Tensor:
    """Where the heads of checked arguments are."""
    if operands.memory.numel() == 0 or operands.key.numel() == 0:
        return _ADDRESSING.elsewhere(eps, *operands)
    if chosen() == "triton" and not addressing.fits_on_chip(operands.memory):
        raise RuntimeError(
            f"nnkernels.backend('triton') cannot serve content_addressing of {tuple(operands.memory.shape)}: a program "
            f"holds {addressing.ON_CHIP} bytes of a memory"
        )
    return route.call(_ADDRESSING, eps, *operands)


def _gradient_of(operand: Tensor | None, wanted: bool) -> Tensor | None:
    if operand is None or not wanted:
        return None
    return empty_in(memory_order(operand), operand, operand.shape)
