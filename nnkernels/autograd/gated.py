"""The gated activations as a form. Backward keeps what was given, a packed tensor or gate and up, and nothing else."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from ..contracts.gated import Gating
from ..reference import gated as reference
from . import jagged, route, sharded
from .context import differentiable_gradients
from .route import Gradients


class _Gated(route.Form):
    family = "gated"
    tensors = 2

    def activation(self, spec: Gating) -> str:
        return spec.activation

    def forward(self, kernels: ModuleType, spec: Gating, records: bool, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        return (kernels.gated(spec, *tensors),)

    def keeps(self, spec: Gating, tensors: tuple[Tensor | None, ...], made: tuple[Tensor, ...]) -> Gradients:
        return tensors

    def backward(
        self, kernels: ModuleType, spec: Gating, wanted: tuple[bool, ...], grad: Tensor, *kept: Tensor | None
    ) -> Gradients:
        return kernels.gated_backward(spec, grad, *kept)

    def differentiable(self, spec: Gating, wanted: tuple[bool, ...], grad: Tensor, *kept: Tensor | None) -> Gradients:
        inputs = [tensor for tensor in kept if tensor is not None]
        found = differentiable_gradients(lambda *tensors: reference.gated(spec, *tensors), inputs, grad)
        return (*found, None)[:2]

    def is_made_again(self, spec: Gating, tensors: Gradients) -> bool:
        return True

    def again(self, kernels: ModuleType, spec: Gating, *kept: Tensor | None) -> Tensor:
        return kernels.gated(spec, *kept)

    def elsewhere(self, spec: Gating, *tensors: Tensor | None) -> Tensor:
        input, up = tensors
        assert input is not None
        if sharded.serves(input, up):
            whole = [spec.dim] if up is None else []
            return sharded.locally(lambda *parts: call(spec, *parts), input, [sharded.alike(input, up)], whole)
        if up is None and jagged.serves(input) and spec.dim in (-1, input.dim() - 1):
            return jagged.together(lambda values: call(spec._replace(dim=-1), values, None), input)
        return reference.gated(spec, input, up)


_GATED = _Gated()


def call(spec: Gating, input: Tensor, up: Tensor | None) -> Tensor:
    """The gated activation of checked arguments."""
    return route.call(_GATED, spec, input, up)
