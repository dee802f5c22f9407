"""The routes from a call of a stateless activation to its kernels.

    a plain call                   the C++ node (csrc/bindings/autograd.cpp) where it was built for this torch
    the same without it            `_Plain`: a ctx-style Function, the cheapest that Python offers
    under a transform or a tangent `_Transformable`: setup_context, jvp and vmap, with a differentiable backward
    a DTensor, a jagged tensor     any of these on the plain tensor in it
    under a compiler, a mode, a    the reference: plain torch operations, which Inductor fuses with their neighbours
    subclass, nested forward mode

Backward keeps one tensor: the input, or the output where the derivative there is the same (`keeps_output`). Derivatives
beyond the second are torch's own derivatives of the reference.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.parameter import Parameter
from torch.overrides import handle_torch_function, has_torch_function_unary

from .. import _torch, dispatch, native, policies, reference
from ..arguments import accepts, refusal
from ..dispatch import Backend
from ..registry import Activation, elementwise
from . import jagged, node, recomputing, sharded
from .context import check_alike, has_plain_data, shown_as, writing


def call(
    row: Activation, function: Any, x: Tensor, a: float, b: float, inplace: bool = False, policy: str | None = None
) -> Tensor:
    """`row` at `x`, keeping for backward what `policy` or else `nnkernels.saving` says.

    `function` is the public function, for `__torch_function__` and for error messages.
    """
    if row.refuses is not None and (refusal := row.refuses(a, b)) is not None:
        raise refusal
    if torch.compiler.is_compiling():
        return _composed(row, function, x, a, b, inplace)
    if policy is None and row.slopes is not None and type(x) in (Tensor, Parameter) and x.is_cuda and _bits_pay(x):
        policy = "bits"
    casts = row.float32_under_cuda_autocast and _torch.autocasts("cuda")
    if node.serves and policy is None and not casts:
        index = native.index_of(row.name)
        if index is not None:
            y = node.module.apply(x, index, a, b, row.keeps_output(a, b), bool(inplace))
            if y is not None:
                return y
    return _call(row, function, x, a, b, inplace, policy or policies.chosen())


def _bits_pay(x: Tensor) -> bool:
    """Whether one bit for each element is the fastest exact choice, and nobody chose otherwise."""
    return (
        x.numel() >= policies.BITS_PAY
        and x.requires_grad
        and torch.is_grad_enabled()
        and policies.chosen() == dispatch.chosen() == "auto"
        and not isinstance(dispatch.named("triton"), str)
    )


def _call(row: Activation, function: Any, x: Tensor, a: float, b: float, inplace: bool, policy: str) -> Tensor:
    if has_torch_function_unary(x):
        return handle_torch_function(function, (x,), x, **_keywords(row, a, b, inplace))
    if not isinstance(x, Tensor):
        raise TypeError(f"{function.__name__}(): argument 'input' must be Tensor, not {type(x).__name__}")
    if not accepts(x):
        return _as_torch_does(row, function, x, a, b, inplace)
    x = _autocast(row, x)
    records = torch.is_grad_enabled() and x.requires_grad
    if inplace and records and x.is_leaf:
        raise RuntimeError(
            f"{function.__name__}(): a leaf Variable that requires grad is being used in an in-place operation "
            f"(input of shape {tuple(x.shape)})"
        )
    if not has_plain_data(x) or _torch.nested_forward_mode():
        inside: Any = sharded.locally if sharded.serves(x) else jagged.together if jagged.serves(x) else None
        if inside is None:
            return _composed(row, function, x, a, b, inplace)
        told = None if policy == policies.chosen() else policy
        kept = x.clone() if inplace and records else x
        y = inside(lambda x: call(row, function, x, a, b, policy=told), kept)
        return x.copy_(y) if inplace else y

    backend = dispatch.select(row.name, x)
    if _torch.transforms_active() or _torch.has_forward_level():
        y = _Transformable.apply(x.clone() if inplace else x, row, backend, a, b)  # which keeps what it is given
        return x.copy_(y) if inplace else y
    if not records:
        if inplace:
            return writing(x, lambda: backend.forward(row.name, x, a, b, x))
        return backend.forward(row.name, x, a, b)
    if policy == "recompute":
        return _remembered(row, x, backend, a, b, inplace)
    if policy != "auto":
        from .saving import apply

        return apply(row, x, backend, a, b, inplace, policy)
    return (_in_place if inplace else _plain)(x, row, backend, a, b)


def _remembered(row: Activation, x: Tensor, backend: Backend, a: float, b: float, inplace: bool) -> Tensor:
    if inplace or row.keeps_output(a, b):  # what follows shares the output with backward as it is
        return (_in_place if inplace else _plain)(x, row, backend, a, b)
    y = _plain(x, row, backend, a, b)
    recomputing.remember(y, row.name, lambda x: backend.forward(row.name, x, a, b), x)
    return y


def _keywords(row: Activation, a: float, b: float, inplace: bool) -> dict[str, float]:
    """The arguments after the tensor, as a call of the public function names them."""
    constants: dict[str, float] = dict(zip(row.parameters, (a, b), strict=False))
    return constants | {"inplace": True} if inplace else constants


def _autocast(row: Activation, x: Tensor) -> Tensor:
    casts = row.float32_under_cuda_autocast and x.device.type == "cuda" and x.dtype != torch.float64
    return x.float() if casts and _torch.autocasts("cuda") else x


def _composed(row: Activation, function: Any, x: Tensor, a: float, b: float, inplace: bool) -> Tensor:
    if not accepts(x):
        return _as_torch_does(row, function, x, a, b, inplace)
    given = x.clone() if inplace else x  # the operations keep what they are given
    y = reference.evaluate(row.name, "value", _autocast(row, given), a, b)
    return x.copy_(y) if inplace else y


def _as_torch_does(row: Activation, function: Any, x: Tensor, a: float, b: float, inplace: bool) -> Tensor:
    """For other types and layouts: torch's own function, and torch's own exception."""
    own = getattr(torch.nn.functional, row.name, None)
    if own is None:
        raise NotImplementedError(refusal(function.__name__, x))
    try:
        return own(x, **_keywords(row, a, b, inplace))
    except RuntimeError as error:
        raise type(error)(refusal(function.__name__, x)) from error


def gradient(grad: Tensor, kept: Tensor, row: Activation, backend: Backend, a: float, b: float) -> Tensor:
    """grad f'(kept), itself differentiable where autograd or a transform asks for that."""
    check_alike(grad, kept, row.name)
    if grad.dtype != kept.dtype:
        grad = grad.to(kept.dtype)
    if not has_plain_data(kept) or not has_plain_data(grad) or _torch.nested_forward_mode():
        return reference.times(grad, row.name, "d1", kept, a, b)
    if _torch.transforms_active() or _torch.has_forward_level():
        return _TransformableBackward.apply(grad, kept, row, backend, a, b)
    if torch.is_grad_enabled() and (grad.requires_grad or kept.requires_grad):
        return _PlainBackward.apply(grad, kept, row, backend, a, b)
    return backend.backward(row.name, grad, kept, a, b)


def _transformable_gradient(grad: Tensor, x: Tensor, row: Activation, backend: Backend, a: float, b: float) -> Tensor:
    if _torch.is_batched_by_autograd(grad):
        return reference.times(grad, row.name, "d1", x, a, b)
    return _TransformableBackward.apply(grad, x, row, backend, a, b)


def _second(grad_grad: Tensor, grad: Tensor, x: Tensor, row: Activation, a: float, b: float) -> Tensor:
    """grad_grad grad f''(x) in torch operations, differentiable to any order."""
    return reference.times(grad_grad, row.name, "d2", x, a, b, also=grad)


class _Plain(Function):
    @staticmethod
    def forward(ctx, x, row, backend, a, b):  # type: ignore[override]
        y = backend.forward(row.name, x, a, b)
        ctx.save_for_backward(y if row.keeps_output(a, b) else x)
        ctx.constants = (row, backend, a, b)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        return gradient(grad, ctx.saved_tensors[0], *ctx.constants), None, None, None, None


def _plain(x: Tensor, row: Activation, backend: Backend, a: float, b: float) -> Tensor:
    return shown_as(row.module, _Plain).apply(x, row, backend, a, b)


def _in_place(x: Tensor, row: Activation, backend: Backend, a: float, b: float) -> Tensor:
    # The copy belongs to the graph, by which second derivatives find their way from it to the input.
    function = shown_as(row.module, _PlainInplace)
    return function.apply(x, None if row.keeps_output(a, b) else x.clone(), row, backend, a, b)


def nothing_for_copy(ctx: Any, grad: Tensor) -> Tensor | None:
    """The gradient of the second argument: compiled autograd adds it to the input's, and cannot add None."""
    return torch.zeros_like(grad) if ctx.needs_input_grad[1] and torch.compiler.is_compiling() else None


class _PlainInplace(Function):
    @staticmethod
    def forward(ctx, x, copy, row, backend, a, b):  # type: ignore[override]
        y = backend.forward(row.name, x, a, b, x)
        ctx.mark_dirty(y)
        ctx.save_for_backward(y if copy is None else copy)
        ctx.constants = (row, backend, a, b)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        return gradient(grad, ctx.saved_tensors[0], *ctx.constants), nothing_for_copy(ctx, grad), *[None] * 4


class _PlainBackward(Function):
    @staticmethod
    def forward(ctx, grad, x, row, backend, a, b):  # type: ignore[override]
        ctx.save_for_backward(grad, x)
        ctx.constants = (row, backend, a, b)
        return backend.backward(row.name, grad, x, a, b)

    @staticmethod
    def backward(ctx, grad_grad):  # type: ignore[override]
        grad, x = ctx.saved_tensors
        row, backend, a, b = ctx.constants
        plain = has_plain_data(grad_grad) and not _torch.transforms_active() and not _torch.has_forward_level()
        if plain and not torch.is_grad_enabled():
            both = backend.double_backward(row.name, grad_grad, grad, x, a, b)
        else:
            both = gradient(grad_grad, x, *ctx.constants), _second(grad_grad, grad, x, row, a, b)
        return *both, None, None, None, None


class _Transformable(Function):
    @staticmethod
    def forward(x, row, backend, a, b):  # type: ignore[override]
        return backend.forward(row.name, x, a, b)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, *constants = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        ctx.constants = constants

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        return _transformable_gradient(grad, ctx.saved_tensors[0], *ctx.constants), None, None, None, None

    @staticmethod
    def jvp(ctx, tangent, *_):  # type: ignore[override]
        return _transformable_gradient(tangent, ctx.saved_tensors[0], *ctx.constants)

    @staticmethod
    def vmap(info, in_dims, x, *constants):  # type: ignore[override]
        return _Transformable.apply(x, *constants), in_dims[0]


class _TransformableBackward(Function):
    @staticmethod
    def forward(grad, x, row, backend, a, b):  # type: ignore[override]
        return backend.backward(row.name, grad, x, a, b)

    @staticmethod
    def setup_context(ctx, inputs, output):
        grad, x, *constants = inputs
        ctx.save_for_backward(grad, x)
        ctx.save_for_forward(grad, x)
        ctx.constants = constants

    @staticmethod
    def backward(ctx, grad_grad):  # type: ignore[override]
        grad, x = ctx.saved_tensors
        row, _, a, b = ctx.constants
        for_grad = _transformable_gradient(grad_grad, x, *ctx.constants)
        return for_grad, _second(grad_grad, grad, x, row, a, b), None, None, None, None

    @staticmethod
    def jvp(ctx, grad_tangent, x_tangent, *_):  # type: ignore[override]
        grad, x = ctx.saved_tensors
        row, _, a, b = ctx.constants
        along_x = None if x_tangent is None else _second(x_tangent, grad, x, row, a, b)
        if grad_tangent is None:
            return along_x
        along_grad = _transformable_gradient(grad_tangent, x, *ctx.constants)
        return along_grad if along_x is None else along_grad + along_x

    @staticmethod
    def vmap(info, in_dims, grad, x, *constants):  # type: ignore[override]
        def batched(t: Tensor, dim: int | None) -> Tensor:
            return t.unsqueeze(0).expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)

        return _TransformableBackward.apply(batched(grad, in_dims[0]), batched(x, in_dims[1]), *constants), 0


def _python_backward(grad: Tensor, kept: Tensor, index: int, a: float, b: float) -> Tensor:
    """What the C++ node calls where its own backward is not a plain one."""
    row = elementwise(native.activation_names()[index])
    return gradient(grad, kept, row, dispatch.select(row.name, kept), a, b)


if node.module is not None:
    _names = tuple(node.shown(elementwise(name).module) for name in native.activation_names())
    node.module.connect(native.launcher("cpu"), native.launcher("cuda"), _python_backward, _names)
