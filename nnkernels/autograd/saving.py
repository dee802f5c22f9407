"""The routes of a stateless activation under a policy other than the default: what backward keeps differs, no more.

What keeps a few bits for each element, in whichever family, is a `Coding`; `keep_bits` its form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .. import dispatch, policies, reference
from ..dispatch import Backend
from ..layout import plan
from ..registry import Activation, row_called
from . import route
from .context import has_plain_data, save, saved
from .elementwise import gradient, nothing_for_copy
from .route import Gradients


def apply(row: Activation, x: Tensor, backend: Backend, a: float, b: float, inplace: bool, policy: str) -> Tensor:
    """`row` at `x`, keeping for backward what `policy` says.

    Raises:
        ValueError: `policy` cannot serve `row`.
    """
    policies.check(row, policy, a, b)
    levels = policies.levels(row, policy, *reference.rounded(x, a, b))
    if levels is not None:
        return keep_bits(x, _coding(row, a, b, levels), inplace)
    if policy == "output" and not row.keeps_output(a, b):
        return _Output.apply(x, row, backend, a, b, inplace)
    keeps_input = policy == "input" or not row.keeps_output(a, b)
    # A copy belongs to the graph, by which second derivatives find their way from it to the input.
    kept = None if not keeps_input else x.clone() if inplace else x
    return _Whole.apply(x, kept, row, backend, a, b, inplace)


class _Whole(Function):
    """Keeps `kept`, the input, or else the output, whose derivative is the same."""

    @staticmethod
    def forward(ctx, x, kept, row, backend, a, b, inplace):  # type: ignore[override]
        y = backend.forward(row.name, x, a, b, x if inplace else None)
        if inplace:
            ctx.mark_dirty(y)
        save(ctx, y if kept is None else kept)
        ctx.constants = (row, backend, a, b)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        return gradient(grad, saved(ctx)[0], *ctx.constants), nothing_for_copy(ctx, grad), *[None] * 5


class _Output(Function):
    """Keeps the output, from which the derivative follows, but for the tails."""

    @staticmethod
    def forward(ctx, x, row, backend, a, b, inplace):  # type: ignore[override]
        y = backend.forward(row.name, x, a, b, x if inplace else None)
        if inplace:
            ctx.mark_dirty(y)
        save(ctx, y)
        ctx.constants = (row.name, a)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        name, a = ctx.constants
        return reference.FORMULAS[name].from_output(grad, saved(ctx)[0], a), *[None] * 5


@dataclass(frozen=True)
class Coding:
    """How a few bits for each element serve backward in place of a tensor.

    Attributes:
        family: whose kernels `encode` and `decode` are told first, and the constants next.
        name: of the activation.
        constants: hashable.
        encode: told x, y and the tensors that are kept besides, writes the value to y, which may be x, and returns the
            bits. x and y are dense and lie alike.
        decode: told the incoming gradient, which lies as y did, the bits and the tensors that are kept besides, the
            gradient for x.
        bits: for each element; more than one do not tell the second derivative.
    """

    family: str
    name: str
    constants: tuple[Any, ...]
    encode: Callable[..., Tensor]
    decode: Callable[..., Tensor]
    bits: int = 1

    def kernels(self, x: Tensor) -> ModuleType:
        return dispatch.kernels(self.family, x, self.name if self.family == "saving" else None)


def keep_bits(x: Tensor, coding: Coding, inplace: bool, *besides: Tensor) -> Tensor:
    """The value at `x`, keeping what `coding` says and the tensors `besides`, which get no gradient."""
    if inplace:
        return _CodedInPlace.apply(x, coding, *besides)
    return route.call(_FORMS[coding.family], coding, x, *besides)


def _coding(row: Activation, a: float, b: float, levels: policies.Levels) -> Coding:
    return Coding("saving", row.name, (row.name, a, b, levels), _quantised, _times_quantised, levels.bits)


def _quantised(kernels: ModuleType, constants: tuple[Any, ...], x: Tensor, y: Tensor) -> Tensor:
    name, a, b, levels = constants
    return kernels.quantised_forward(name, adjacent(x), a, b, levels, adjacent(y))


def _times_quantised(kernels: ModuleType, constants: tuple[Any, ...], grad: Tensor, packed: Tensor) -> Tensor:
    name, _, _, levels = constants
    return kernels.quantised_backward(name, adjacent(grad), packed, levels)


def _encoded(
    kernels: ModuleType, coding: Coding, x: Tensor, inplace: bool, besides: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """The value, dense, and the bits."""
    source = x if is_dense(x) else torch.empty_like(x).copy_(x)
    y = x if inplace and source is x else torch.empty_like(source)
    return y, coding.encode(kernels, coding.constants, source, y, *besides)


def _decoded(kernels: ModuleType, coding: Coding, strides: tuple[int, ...], grad: Tensor, *kept: Tensor) -> Tensor:
    if grad.stride() != strides or not is_dense(grad):
        grad = torch.empty_strided(grad.shape, strides, dtype=grad.dtype, device=grad.device).copy_(grad)
    return coding.decode(kernels, coding.constants, grad, *kept).as_strided(grad.shape, strides)


class _Bits(route.Form):
    """Keeps the derivative, or what is left to know of it, in 1, 4 or 8 bits."""

    def __init__(self, family: str, besides: int) -> None:
        self.family, self.tensors = family, 1 + besides  # type: ignore[misc]

    def shown(self, spec: Coding) -> str:
        return row_called(spec.name).module

    def activation(self, spec: Any) -> str | None:
        coding = spec if isinstance(spec, Coding) else spec[0]
        return coding.name if self.family == "saving" else None

    def forward(self, kernels: ModuleType, spec: Coding, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        x, *besides = tensors
        return _encoded(kernels, spec, x, False, tuple(besides))

    def keeps(self, spec: Coding, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        return made[1], *tensors[1:]

    def backward_spec(self, spec: Coding, tensors: Gradients, made: tuple[Tensor, ...]) -> Any:
        return spec, made[0].stride()

    def backward(self, kernels: ModuleType, spec: Any, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        return _decoded(kernels, *spec, grad, *kept), *[None] * (self.tensors - 1)

    def differentiable(self, spec: Any, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        return _linear(grad, *spec, *kept), *[None] * (self.tensors - 1)

    def elsewhere(self, spec: Coding, *tensors: Any) -> Tensor:
        raise RuntimeError(
            f"{spec.name}: saving('bits') and 'compressed' serve plain tensors, got {type(tensors[0])} of shape "
            f"{tuple(tensors[0].shape)}; use saving('auto')"
        )


class _CodedInPlace(Function):
    @staticmethod
    def forward(ctx, x, coding, *besides):  # type: ignore[override]
        y, packed = _encoded(coding.kernels(x), coding, x, True, besides)
        save(ctx, packed, *besides)
        ctx.constants = (coding, y.stride())
        y = y if y is x else x.copy_(y)
        ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        tensors = saved(ctx)
        return _linear(grad, *ctx.constants, *tensors), *[None] * len(tensors)


def _linear(grad: Tensor, coding: Coding, strides: tuple[int, ...], *kept: Tensor) -> Tensor:
    if torch.is_grad_enabled() and coding.bits != 1:
        raise RuntimeError(
            f"{coding.name}: the derivative was kept in {coding.bits} bits, which do not tell the second "
            "derivative; use saving('auto') where a graph of the gradient is asked for (create_graph)"
        )
    return _CodedBackward.apply(grad, coding, strides, *kept)


class _CodedBackward(Function):
    """Linear in the gradient: its own backward is itself."""

    @staticmethod
    def forward(ctx, grad, coding, strides, *kept):  # type: ignore[override]
        save(ctx, *kept)
        ctx.constants = (coding, strides)
        if not has_plain_data(grad):
            raise RuntimeError(
                f"{coding.name}: backward under saving('bits') or 'compressed' takes a plain tensor, got {type(grad)}; "
                "use saving('auto')"
            )
        return _decoded(coding.kernels(grad), coding, strides, grad, *kept)

    @staticmethod
    def backward(ctx, grad_grad):  # type: ignore[override]
        tensors = saved(ctx)
        return _CodedBackward.apply(grad_grad, *ctx.constants, *tensors), *[None] * (2 + len(tensors))


_FORMS = {"saving": _Bits("saving", 0), "learned": _Bits("learned", 1), "random": _Bits("random", 1)}


def is_dense(x: Tensor) -> bool:
    """Whether the elements of `x` lie side by side, in some order of the dimensions."""
    geometry = plan(x)
    return geometry is not None and geometry.rows <= 1


def adjacent(x: Tensor) -> Tensor:
    """The elements of a dense `x` as they lie in memory, in one dimension."""
    return x.detach().as_strided((x.numel(),), (1,))
