"""The routes of a stateless activation under a policy other than the default: what backward keeps differs, no more."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from .. import dispatch, policies, reference
from ..dispatch import Backend
from ..layout import plan
from ..registry import Activation
from .context import has_plain_data
from .elementwise import gradient


def apply(row: Activation, x: Tensor, backend: Backend, a: float, b: float, inplace: bool, policy: str) -> Tensor:
    """`row` at `x`, keeping for backward what `policy` says.

    Raises:
        ValueError: `policy` cannot serve `row`.
    """
    policies.check(row, policy, a, b)
    levels = policies.levels(row, policy, *reference.rounded(x, a, b))
    if levels is not None:
        return _Quantised.apply(x, row, a, b, inplace, levels)
    if policy == "output" and not row.keeps_output(a, b):
        return _Output.apply(x, row, backend, a, b, inplace)
    return _Whole.apply(x, row, backend, a, b, inplace, policy == "input")


class _Whole(Function):
    """Keeps the input, or the output whose derivative is the same."""

    @staticmethod
    def forward(ctx, x, row, backend, a, b, inplace, keeps_input):  # type: ignore[override]
        keeps_input = keeps_input or not row.keeps_output(a, b)
        kept = x.clone() if inplace and keeps_input else x
        y = backend.forward(row.name, x, a, b, x if inplace else None)
        if inplace:
            ctx.mark_dirty(y)
        ctx.save_for_backward(kept if keeps_input else y)
        ctx.constants = (row, backend, a, b)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        return gradient(grad, ctx.saved_tensors[0], *ctx.constants), *[None] * 6


class _Output(Function):
    """Keeps the output, from which the derivative follows, but for the tails."""

    @staticmethod
    def forward(ctx, x, row, backend, a, b, inplace):  # type: ignore[override]
        y = backend.forward(row.name, x, a, b, x if inplace else None)
        if inplace:
            ctx.mark_dirty(y)
        ctx.save_for_backward(y)
        ctx.name, ctx.constant = row.name, a
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        return _from_output(ctx.name, ctx.constant, grad, ctx.saved_tensors[0]), *[None] * 5


def _from_output(name: str, a: float, grad: Tensor, y: Tensor) -> Tensor:
    aten = torch.ops.aten
    if name == "sigmoid":
        return aten.sigmoid_backward(grad, y)
    if name == "tanh":
        return aten.tanh_backward(grad, y)
    if name in ("softplus", "logsigmoid", "softsign"):
        wide = y.to(reference.compute_dtype(y))
        if name == "softsign":
            slope = (1 - wide.abs()).square()
        else:
            slope = -torch.expm1(wide if name == "logsigmoid" else -a * wide)
        return (grad * slope).to(grad.dtype)
    alpha, scale, input_scale = {
        "elu": (a, 1.0, 1.0),
        "celu": (a, 1.0, 1 / a if a else 1.0),
        "selu": (1.6732632423543772848, 1.0507009873554804934, 1.0),
    }[name]
    return aten.elu_backward(grad, alpha, scale, input_scale, True, y)


class _Quantised(Function):
    """Keeps the derivative in 1, 4 or 8 bits."""

    @staticmethod
    def forward(ctx, x, row, a, b, inplace, levels):  # type: ignore[override]
        source = x if is_dense(x) else torch.empty_like(x).copy_(x)
        y = x if inplace and source is x else torch.empty_like(source)
        kernels = dispatch.kernels("saving", x, row.name)
        packed = kernels.quantised_forward(row.name, adjacent(source), a, b, levels, adjacent(y))
        ctx.save_for_backward(packed)
        ctx.constants = (row, levels, y.stride())
        if inplace:
            y = y if y is x else x.copy_(y)
            ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        row, levels, _ = ctx.constants
        if torch.is_grad_enabled() and levels.bits != 1:
            raise RuntimeError(
                f"{row.name}: the derivative was kept in {levels.bits} bits, which do not tell the second derivative; "
                "use saving('auto') where a graph of the gradient is asked for (create_graph)"
            )
        return _QuantisedBackward.apply(grad, ctx.saved_tensors[0], *ctx.constants), *[None] * 5


class _QuantisedBackward(Function):
    """Linear in the gradient: its own backward is itself."""

    @staticmethod
    def forward(ctx, grad, packed, row, levels, strides):  # type: ignore[override]
        ctx.save_for_backward(packed)
        ctx.constants = (row, levels, strides)
        if not has_plain_data(grad):
            raise RuntimeError(
                f"{row.name}: backward under saving('bits') or 'compressed' takes a plain tensor, got {type(grad)}; "
                "use saving('auto')"
            )
        if grad.stride() != strides or not is_dense(grad):
            grad = torch.empty_strided(grad.shape, strides, dtype=grad.dtype, device=grad.device).copy_(grad)
        kernels = dispatch.kernels("saving", grad)
        grad_x = kernels.quantised_backward(row.name, adjacent(grad), packed, levels)
        return grad_x.as_strided(grad.shape, strides)

    @staticmethod
    def backward(ctx, grad_grad):  # type: ignore[override]
        return _QuantisedBackward.apply(grad_grad, ctx.saved_tensors[0], *ctx.constants), *[None] * 4


def is_dense(x: Tensor) -> bool:
    """Whether the elements of `x` lie side by side, in some order of the dimensions."""
    geometry = plan(x)
    return geometry is not None and geometry.rows <= 1


def adjacent(x: Tensor) -> Tensor:
    """The elements of a dense `x` as they lie in memory, in one dimension."""
    return x.detach().as_strided((x.numel(),), (1,))
