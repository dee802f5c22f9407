"""The activations with learned parameters as forms, in place and under other policies too.

Backward keeps the input and the parameters. A prelu whose weight requires no gradient needs one bit for each element.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import dispatch, policies
from .._torch import ragged_dim
from ..contracts.computing import wide_dtype
from ..reference import learned as reference
from ..registry import Learned, catalogue, row_called
from . import jagged, route, sharded
from .context import differentiable_gradients, is_plain_call, writing
from .route import Gradients
from .saving import Coding, adjacent, keep_bits


class _Spec(NamedTuple):
    """The activation's constants, the dimension of channels, and the saving policy of a module, if one was chosen."""

    constants: tuple[float, ...] = ()
    dim: int = 1
    policy: str | None = None

    def channels_second(self, x: Tensor) -> Tensor:
        """`x` with its channels in dimension 1, as kernels take them, in whatever order the dimensions lie."""
        return x if self.dim == 1 else x.movedim(self.dim, 1)

    def in_place_again(self, y: Tensor) -> Tensor:
        return y if self.dim == 1 else y.movedim(1, self.dim)


class _Learned(route.Form):
    family = "learned"

    def __init__(self, name: str, parameters: int) -> None:
        self.name = self.row = name
        self.tensors = 1 + parameters  # type: ignore[misc]

    def shown(self, spec: _Spec) -> str:
        return row_called(self.name).module

    def forward(self, kernels: ModuleType, spec: _Spec, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        return (self.value(kernels, spec, *tensors),)

    def value(
        self, kernels: ModuleType, spec: _Spec, x: Tensor, *parameters: Tensor, out: Tensor | None = None
    ) -> Tensor:
        given = _of_one_length(x, parameters)
        return spec.in_place_again(kernels.forward(self.name, spec.channels_second(x), given, spec.constants, out))

    def keeps(self, spec: _Spec, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        return tensors

    def backward(
        self, kernels: ModuleType, spec: _Spec, wanted: tuple[bool, ...], grad: Tensor, *kept: Any
    ) -> Gradients:
        x, *parameters = kept
        grad, x, for_parameters = spec.channels_second(grad), spec.channels_second(x), any(wanted[1:])
        given = _of_one_length(x, parameters)
        grad_x, for_each = kernels.backward(self.name, grad, x, given, spec.constants, for_parameters)
        gradients = map(_summed, for_each, parameters) if for_parameters else [None] * len(parameters)
        return spec.in_place_again(grad_x), *gradients

    def is_made_again(self, spec: _Spec, tensors: Gradients) -> bool:
        return True

    def again(self, kernels: ModuleType, spec: _Spec, *kept: Any) -> Tensor:
        return self.value(kernels, spec, *kept)

    def reference(self, spec: _Spec, x: Tensor, *parameters: Tensor) -> Tensor:
        """The value in torch operations."""
        y = reference.evaluate(self.name, spec.constants, spec.channels_second(x), *parameters)
        return spec.in_place_again(y)

    def differentiable(self, spec: _Spec, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        return differentiable_gradients(partial(self.reference, spec), kept, grad)

    def elsewhere(self, spec: _Spec, *tensors: Any) -> Tensor:
        x, *parameters = tensors
        if jagged.serves(x):
            single = all(parameter.numel() == 1 for parameter in parameters)
            if single or ragged_dim(x) < spec.dim:  # whose rows lie in one dimension less
                within = spec._replace(dim=1 if single else spec.dim - 1)._asdict()
                return jagged.together(lambda values: call(self.name, values, parameters, **within), x)
        if not sharded.serves(*tensors):
            return self.reference(spec, *tensors)
        operands = [(parameter, _along(self.name, spec.dim, parameter)) for parameter in parameters]
        return sharded.locally(lambda x, *parts: call(self.name, x, parts, **spec._asdict()), x, operands)


def _of_one_length(x: Tensor, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
    """Parameters of which some are single and others are not: all one for each channel, in the type of computing."""
    most = max(parameter.numel() for parameter in parameters)
    if all(parameter.numel() == most for parameter in parameters):
        return parameters
    wide = wide_dtype(x.dtype)
    return [p if p.numel() == most else p.to(wide).reshape(1).expand(most) for p in parameters]


def _summed(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient of a parameter that stood for each of several channels."""
    if gradient.shape == parameter.shape:
        return gradient
    return gradient.sum().to(parameter.dtype).reshape(parameter.shape)


_PARAMETERS = {"prelu": 1, "swish": 1, "apl": 2, "xielu": 2, "snake": 1, "snake_beta": 2, "starrelu": 2, "dyt": 3}
_PARAMETERS |= {row.name: len(row.start) for row in catalogue(Learned) if row.start}
_FORMS = {name: _Learned(name, count) for name, count in _PARAMETERS.items()}


def call(
    name: str,
    x: Tensor,
    parameters: Sequence[Tensor],
    constants: tuple[float, ...] = (),
    dim: int = 1,
    inplace: bool = False,
    policy: str | None = None,
) -> Tensor:
    """The activation called `name` at `x`, each of whose parameters is single or one for each channel along `dim`.

    Backward keeps what `policy` or else `nnkernels.saving` says.
    """
    form, spec = _FORMS[name], _Spec(constants, dim)
    if not inplace and policy is None and policies.chosen.is_untouched:
        return route.call(form, spec, x, *parameters)
    if not is_plain_call(x, *parameters):
        # Whose reference keeps what it is given.
        y = form.elsewhere(spec._replace(policy=policy), x.clone() if inplace else x, *parameters)
        return x.copy_(y) if inplace else y
    kernels = dispatch.kernels("learned", x, row=name)
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *parameters))):
        if inplace:
            return writing(x, lambda: form.value(kernels, spec, x, *parameters, out=x))
        return form.value(kernels, spec, x, *parameters)
    policy = policy or policies.chosen()
    policies.check_learned(name, policy, any(parameter.requires_grad for parameter in parameters))
    if x.numel() and (policy == "bits" or policy.startswith("compressed")):
        return keep_bits(x, _SIGNS, inplace, *parameters)
    if inplace:
        return x.copy_(route.call(form, spec, x.clone(), *parameters))
    return route.call(form, spec, x, *parameters)


def _along(name: str, dim: int, parameter: Tensor) -> list[int | None]:
    """Channels are a parameter's last dimension, after apl's segments."""
    segments: list[int | None] = [None] if name == "apl" else []
    channels = [dim if size > 1 else None for size in parameter.shape[len(segments) :]]
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
