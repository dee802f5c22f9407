"""Layer and rms norm with residual and activation as forms, of a tensor or of a sum, which is an output as well.

Backward keeps what was normalised and its rows' statistics.
"""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..contracts.normalization import Norm
from ..reference import normalization as reference
from . import route, sharded
from .context import differentiable_gradients
from .route import Gradients


class _Call(NamedTuple):
    norm: Norm
    dims: int
    types: tuple[torch.dtype, ...] = ()
    """Of the operands of a sum."""


def call(
    norm: Norm, x: Tensor, dims: int, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    """f(norm(x) (weight + offset) + bias + residual) over the last `dims` dimensions of x, in the norm's type.

    The residual has x's shape and type.
    """
    return _called(_NORM_ACT, _Call(norm, dims), x, residual, weight, bias)


def call_of_sum(
    norm: Norm, x: Tensor, addend: Tensor, dims: int, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`call` of x + addend, and that sum; the addend has x's shape."""
    return _called(_ADD_NORM_ACT, _Call(norm, dims, (x.dtype, addend.dtype)), x, None, weight, bias, addend)


def _called(form: route.Form, spec: _Call, *tensors: Any) -> Any:
    return form.elsewhere(spec, *tensors) if tensors[0].numel() == 0 else route.call(form, spec, *tensors)


def _shape(x: Tensor, dims: int) -> tuple[int, int]:
    cols = x.shape[x.dim() - dims :].numel()
    return x.numel() // cols, cols


def _rows(x: Tensor | None, shape: tuple[int, int]) -> Tensor | None:
    """`x` as a matrix of rows of adjacent elements: itself if it lies so, whatever lies between its rows."""
    if x is None:
        return None
    if x.shape != shape:
        x = x.reshape(shape)
    return x if x.stride(1) == 1 or shape[1] == 1 else x.contiguous()


def flat(parameter: Tensor | None) -> Tensor | None:
    if parameter is None or (parameter.dim() == 1 and parameter.is_contiguous()):
        return parameter
    return parameter.reshape(-1).contiguous()


def _shaped(found: Tensor | None, like: Tensor) -> Tensor | None:
    return found if found is None or found.shape == like.shape else found.view(like.shape)


def _kind(norm: Norm) -> str:
    return "LayerNorm" if norm.centred else "RMSNorm"


class NormAct(route.Form):
    """Of x, residual, weight and bias; its spec has a `norm`."""

    family = "normalization"
    tensors = 4

    def shown(self, spec: _Call) -> str:
        norm = spec.norm
        return "GatedRMSNorm" if norm.gates else f"{_kind(norm)}Act"

    def activation(self, spec: _Call) -> str:
        return spec.norm.inner.name

    def forward(self, kernels: ModuleType, spec: _Call, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        x, residual, weight, bias, addend = (*tensors, None)[:5]
        shape = _shape(x, spec.dims)
        y, statistics, total = kernels.norm_act(
            spec.norm, _rows(x, shape), _rows(residual, shape), flat(weight), flat(bias), _rows(addend, shape)
        )
        outputs = (y,) if total is None else (y, total)
        return *(_shaped(output, x) for output in outputs), statistics  # type: ignore[return-value]

    def keeps(self, spec: _Call, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        x, residual, weight, bias = tensors
        return x, None if spec.norm.is_linear else residual, weight, bias, made[-1]

    def backward(self, kernels: ModuleType, spec: _Call, wanted: tuple[bool, ...], grad: Any, *kept: Any) -> Gradients:
        return self._backward(kernels, spec, wanted, grad, None, None, *kept)[:4]

    def _backward(
        self,
        kernels: ModuleType,
        spec: _Call,
        wanted: tuple[bool, ...],
        grad: Any,
        grad_sum: Any,
        also: torch.dtype | None,
        *kept: Any,
    ) -> Gradients:
        """The gradients, and that of x once more in the type `also`."""
        x, residual, weight, bias, statistics = kept
        wants_x, wants_residual, wants_weight, wants_bias = wanted
        if spec.norm.is_linear and not (wants_x or wants_weight or wants_bias):
            return None, grad.to(x.dtype), None, None, None
        shape = _shape(x, spec.dims)
        for_x, for_residual, for_weight, for_bias, narrowed = kernels.norm_act_backward(
            spec.norm, _rows(grad, shape), _rows(x, shape), _rows(residual, shape), flat(weight), flat(bias),
            statistics, _rows(grad_sum, shape), wants_residual, wants_weight or wants_bias, also,
        )  # fmt: skip
        for_residual = grad.to(x.dtype) if spec.norm.is_linear else _shaped(for_residual, x)
        found = _shaped(for_x, x), for_residual, _shaped(for_weight, weight), _shaped(for_bias, bias)
        return *found, _shaped(narrowed, x)

    def differentiable(self, spec: _Call, wanted: tuple[bool, ...], grad: Any, *kept: Any) -> Gradients:
        x, residual, weight, bias, _ = kept
        if spec.norm.is_linear and not any((wanted[0], *wanted[2:])):
            return None, grad.to(x.dtype), None, None
        function = partial(_value, self, spec, [t is not None for t in (residual, weight, bias)])
        given = [tensor for tensor in (x, residual, weight, bias) if tensor is not None]
        found = iter(differentiable_gradients(function, given, grad))
        for_x, for_residual, for_weight, for_bias = (
            None if tensor is None else next(found) for tensor in (x, residual, weight, bias)
        )
        return for_x, grad.to(x.dtype) if spec.norm.is_linear else for_residual, for_weight, for_bias

    def is_made_again(self, spec: _Call, tensors: Gradients) -> bool:
        return tensors[1] is None or not spec.norm.is_linear

    def again(self, kernels: ModuleType, spec: _Call, *kept: Any) -> Tensor:
        x, residual, weight, bias, _ = kept
        return self.forward(kernels, spec, False, x, residual, weight, bias)[0]

    def elsewhere(self, spec: _Call, *tensors: Any) -> Any:
        x, residual, weight, bias = tensors
        if sharded.serves(*tensors):
            last = range(x.dim() - spec.dims, x.dim())
            return sharded.locally(
                lambda x, *others: call(spec.norm, x, spec.dims, *others),
                x, [sharded.alike(x, residual), (weight, last), (bias, last)], last,
            )  # fmt: skip
        return self.composed(spec, x, residual, weight, bias)

    def composed(self, spec: _Call, x: Tensor, *others: Tensor | None) -> Tensor:
        """The value, of x and perhaps a residual, weight and bias, in torch operations."""
        return reference.composed(spec.norm, x, spec.dims, *others)


class _AddNormAct(NormAct):
    """The same of x + addend, a fifth tensor, which backward keeps in the place of x, and whose gradient joins."""

    tensors = 5
    outputs = 2

    def shown(self, spec: _Call) -> str:
        return f"Add{_kind(spec.norm)}"

    def keeps(self, spec: _Call, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        return super().keeps(spec, (made[1], *tensors[1:4]), made)

    def backward(self, kernels: ModuleType, spec: _Call, wanted: tuple[bool, ...], grad: Any, *given: Any) -> Gradients:
        grad_sum, *kept = given
        if grad is None:
            return _of_operands(spec, grad_sum)
        total = kept[0].dtype
        also = next((one for one, used in zip(spec.types, wanted[::4], strict=True) if used and one != total), None)
        for_sum, *others, narrowed = self._backward(
            kernels, spec, (wanted[0] or wanted[4], *wanted[1:4]), grad, grad_sum, also, *kept
        )
        return _of_operands(spec, for_sum, *others, narrowed=narrowed)

    def differentiable(self, spec: _Call, wanted: tuple[bool, ...], grad: Any, *given: Any) -> Gradients:
        grad_sum, *kept = given
        if grad is None:
            return _of_operands(spec, grad_sum)
        for_sum, *others = super().differentiable(spec, (wanted[0] or wanted[4], *wanted[1:4]), grad, *kept)
        if for_sum is not None and grad_sum is not None:
            for_sum = for_sum + grad_sum
        return _of_operands(spec, for_sum, *others)

    def elsewhere(self, spec: _Call, *tensors: Any) -> Any:
        x, *others, addend = tensors
        total = x + addend
        return super().elsewhere(spec, total, *others), total


def _of_operands(
    spec: _Call,
    for_sum: Tensor | None,
    for_residual: Tensor | None = None,
    for_weight: Tensor | None = None,
    for_bias: Tensor | None = None,
    *,
    narrowed: Tensor | None = None,
) -> Gradients:
    """The sum's gradient as that of each operand, in its type, with the others between them."""
    if for_sum is None:
        return None, for_residual, for_weight, for_bias, None
    made = {one.dtype: one for one in (for_sum, narrowed) if one is not None}
    x, addend = (made[one] if one in made else for_sum.to(one) for one in spec.types)
    return x, for_residual, for_weight, for_bias, addend


_NORM_ACT = NormAct()
_ADD_NORM_ACT = _AddNormAct()


def _value(form: NormAct, spec: Any, has: list[bool], x: Tensor, *others: Tensor) -> Tensor:
    """The value of the operands that there are."""
    left = iter(others)
    return form.composed(spec, x, *(next(left) if there else None for there in has))
