"""The activations with learned parameters as forms, in place and under other policies too.

Backward keeps the input and the parameters. A prelu whose weight requires no gradient needs one bit for each element.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .. import dispatch, policies
from ..reference import learned as reference
from ..registry import row_called
from . import recomputing, route, sharded
from .context import differentiable_gradients, is_plain_call, writing
from .route import Gradients
from .saving import Coding, adjacent, keep_bits


class _Learned(route.Form):
    """Its spec is the saving policy of a module, if one was chosen."""

    family = "learned"

    def __init__(self, name: str, parameters: int) -> None:
        self.name, self.tensors = name, 1 + parameters  # type: ignore[misc]

    def shown(self, spec: str | None) -> str:
        return row_called(self.name).module

    def forward(self, kernels: ModuleType, spec: str | None, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        x, *parameters = tensors
        return (kernels.forward(self.name, x, parameters),)

    def keeps(self, spec: str | None, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        return tensors

    def backward(
        self, kernels: ModuleType, spec: str | None, wanted: tuple[bool, ...], grad: Tensor, *kept: Any
    ) -> Gradients:
        x, *parameters = kept
        for_parameters = any(wanted[1:])
        grad_x, for_each = kernels.backward(self.name, grad, x, parameters, for_parameters)
        return grad_x, *(for_each if for_parameters else [None] * len(parameters))

    def differentiable(self, spec: str | None, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        return differentiable_gradients(partial(reference.evaluate, self.name), kept, grad)

    def elsewhere(self, spec: str | None, *tensors: Any) -> Tensor:
        x, *parameters = tensors
        if not sharded.serves(*tensors):
            return reference.evaluate(self.name, *tensors)
        operands = [(parameter, _along(self.name, parameter)) for parameter in parameters]
        return sharded.locally(lambda x, *parts: call(self.name, x, parts, policy=spec), x, operands)


_FORMS = {"prelu": _Learned("prelu", 1), "swish": _Learned("swish", 1), "apl": _Learned("apl", 2)}


def call(
    name: str, x: Tensor, parameters: Sequence[Tensor], inplace: bool = False, policy: str | None = None
) -> Tensor:
    """The activation called `name` at `x`, whose parameters are single or one for each channel.

    Backward keeps what `policy` or else `nnkernels.saving` says.
    """
    form = _FORMS[name]
    if not inplace and policy is None and policies.chosen.is_untouched:
        return route.call(form, None, x, *parameters)
    if not is_plain_call(x, *parameters):
        y = form.elsewhere(policy, x.clone() if inplace else x, *parameters)  # which keeps what it is given
        return x.copy_(y) if inplace else y
    kernels = dispatch.kernels("learned", x)
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *parameters))):
        if inplace:
            return writing(x, lambda: kernels.forward(name, x, parameters, x))
        return kernels.forward(name, x, parameters)
    policy = policy or policies.chosen()
    policies.check_learned(name, policy, any(parameter.requires_grad for parameter in parameters))
    if x.numel() and (policy == "bits" or policy.startswith("compressed")):
        return keep_bits(x, _SIGNS, inplace, *parameters)
    if inplace:
        return x.copy_(route.call(form, None, x.clone(), *parameters))
    y = route.call(form, None, x, *parameters)
    if policy == "recompute":
        recomputing.remember(y, name, lambda x, *parameters: kernels.forward(name, x, parameters), x, *parameters)
    return y


def _along(name: str, parameter: Tensor) -> list[int | None]:
    """Channels, dimension 1 of the input, are a parameter's last dimension, after apl's segments."""
    segments: list[int | None] = [None] if name == "apl" else []
    channels = [1 if size > 1 else None for size in parameter.shape[len(segments) :]]
    return segments + channels


def _signs(kernels: ModuleType, _: Any, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    return kernels.prelu_signs(adjacent(x), adjacent(y), weight, _run_length(x, weight))


def _times_signs(kernels: ModuleType, _: Any, grad: Tensor, packed: Tensor, weight: Tensor) -> Tensor:
    return kernels.prelu_from_signs(adjacent(grad), packed, weight, _run_length(grad, weight))


_SIGNS = Coding("learned", "prelu", (), _signs, _times_signs)
"""One bit for each element says whether prelu's weight, which is kept besides, is the slope there."""


def _run_length(x: Tensor, weight: Tensor) -> int:
    """How many elements of a dense `x` that belong to one channel lie side by side."""
    return max(x.stride(1) if weight.numel() > 1 else x.numel(), 1)
