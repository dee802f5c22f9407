"""The routes from a call of a random activation to its kernels.

A plain call draws one number from torch's generator on the tensor's device, the seed. The kernel reads it from memory,
so nothing waits for the GPU and each replay of a CUDA graph draws anew; `manual_seed`, `fork_rng` and checkpointing
govern it as they govern torch's own random functions. Backward draws the same numbers again, so it keeps the seed and,
for rrelu, the input or what `nnkernels.saving` says; kernels may give dropout's decisions, one bit each, or rrelu's
slopes to be read instead. The order in which elements are numbered is that of the output's memory, so backward has to
know the output's strides: a hook may hand the input back in others.

Under torch.compile on a GPU the kernels are operators (`triton/random_ops.py`), and the seed is drawn within the graph.
Every other call (compilers elsewhere, transforms, forward mode, modes, subclasses) is composed of torch's operations.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .. import dispatch, policies
from ..contracts.random import KeepingSlopes
from ..reference import random as reference
from ..reference import times
from . import recomputing, route
from .context import compiles_kernels, is_plain_call, save, saved, writing
from .route import Gradients
from .saving import Coding, adjacent, is_dense, keep_bits


def rrelu(x: Tensor, lower: float, upper: float, inplace: bool, policy: str | None = None) -> Tensor:
    """rrelu in training, keeping for backward what `policy` or else `nnkernels.saving` says."""
    if not inplace and (policy or policies.chosen()) == "auto":
        return route.call(_RRELU, (lower, upper), x)
    if not is_plain_call(x):
        y = _composed_rrelu(x.clone() if inplace else x, lower, upper)  # which keeps what it is given
        return x.copy_(y) if inplace else y
    kernels, seed = dispatch.kernels("random", x), _draw_seed(x)
    if torch.is_grad_enabled() and x.requires_grad:
        return _recorded(x, seed, kernels, lower, upper, inplace, policy or policies.chosen())
    if not inplace:
        return kernels.rrelu(x, seed, lower, upper)
    if is_dense(x):
        return writing(x, lambda: kernels.rrelu(x, seed, lower, upper, x))
    return x.copy_(kernels.rrelu(x, seed, lower, upper))


def _recorded(
    x: Tensor, seed: Tensor, kernels: ModuleType, lower: float, upper: float, inplace: bool, policy: str
) -> Tensor:
    policies.check_rrelu(policy, lower, upper)
    if policy == "bits" or policy.startswith("compressed"):
        return keep_bits(x, Coding("random", "rrelu", (lower, upper), _signs, _times_signs), inplace, seed)
    y = _RReLU.apply(x, seed, kernels, lower, upper, inplace, policy)
    if policy == "recompute" and not inplace:
        recomputing.remember(y, "rrelu", lambda x, seed: kernels.rrelu(x, seed, lower, upper), x, seed)
    return y


def _signs(kernels: ModuleType, bounds: tuple[float, float], x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
    """One bit for each element says whether a slope was drawn for it; the seed says which."""
    return kernels.rrelu_signs(adjacent(x), adjacent(y), seed, *bounds)


def _times_signs(
    kernels: ModuleType, bounds: tuple[float, float], grad: Tensor, packed: Tensor, seed: Tensor
) -> Tensor:
    return kernels.rrelu_from_signs(adjacent(grad), packed, seed, *bounds)


def _composed_rrelu(x: Tensor, lower: float, upper: float) -> Tensor:
    if _compiles_kernels(x):
        from ..triton import random_ops

        return random_ops.rrelu(x, _draw_seed(x), lower, upper)
    return reference.composed_rrelu(x, lower, upper)


def dropout(x: Tensor, p: float, inplace: bool) -> Tensor:
    """dropout in training, 0 < p < 1."""
    if not inplace:
        return route.call(_DROPOUT, (p,), x)
    if not is_plain_call(x):
        return x.copy_(_composed_dropout(x.clone(), p))  # which keeps what it is given
    kernels, seed = dispatch.kernels("random", x), _draw_seed(x)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Dropout.apply(x, seed, kernels, p, None, inplace)
    if is_dense(x):
        return writing(x, lambda: kernels.dropout(x, seed, p, out=x))
    return x.copy_(kernels.dropout(x, seed, p))


def _composed_dropout(x: Tensor, p: float) -> Tensor:
    if _compiles_kernels(x):
        from ..triton import random_ops

        return random_ops.dropout(x, _draw_seed(x), torch.empty_like(x).stride(), p)
    return reference.composed_dropout(x, p)


def bernoulli(x: Tensor) -> Tensor:
    """Units that are 1 with probability sigmoid(x), else 0, with sigmoid's derivative."""
    return route.call(_BERNOULLI, (), x)


def _compiles_kernels(x: Tensor) -> bool:
    """Not in float64: Inductor hands a kernel its numbers in float32."""
    return x.dtype != torch.float64 and compiles_kernels(x)


def _draw_seed(x: Tensor) -> Tensor:
    return torch.randint(2**63 - 1, (), device=x.device)


class _RReLU(Function):
    """Keeps the input, or the output where its signs are the same and memory is saved by it."""

    @staticmethod
    def forward(ctx, x, seed, kernels, lower, upper, inplace, policy):  # type: ignore[override]
        in_place = x if inplace and is_dense(x) else None
        keeps_output = policies.keeps_sign(lower, upper) and (policy == "output" or (inplace and policy != "input"))
        kept = x.clone() if inplace and not keeps_output else x
        y = kernels.rrelu(x, seed, lower, upper, in_place)
        strides = y.stride()
        if inplace:
            y = y if y is x else x.copy_(y)
            ctx.mark_dirty(y)
        save(ctx, y if keeps_output else kept, seed)
        ctx.constants = (kernels, strides, lower, upper)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        return _rrelu_gradient(grad, *saved(ctx), *ctx.constants), *[None] * 6


class _RReLUGradient(Function):
    """Linear in `grad`, and the transpose of itself; its derivative by `x` is 0."""

    @staticmethod
    def forward(ctx, grad, x, seed, kernels, strides, lower, upper):  # type: ignore[override]
        save(ctx, x, seed)
        ctx.constants = (kernels, strides, lower, upper)
        return kernels.rrelu_backward(grad, x, seed, strides, lower, upper)

    @staticmethod
    def backward(ctx, grad_grad):  # type: ignore[override]
        x, seed = saved(ctx)
        for_grad = _rrelu_gradient(grad_grad, x, seed, *ctx.constants) if ctx.needs_input_grad[0] else None
        for_x = torch.zeros_like(x) if ctx.needs_input_grad[1] else None
        return for_grad, for_x, None, None, None, None, None


def _rrelu_gradient(
    grad: Tensor, x: Tensor, seed: Tensor, kernels: ModuleType, strides: tuple[int, ...], lower: float, upper: float
) -> Tensor:
    """The gradient for rrelu's input, itself differentiable where autograd or a transform asks for that."""
    if not is_plain_call(grad, x, seed):
        return reference.times_slopes(grad, x, seed, strides, lower, upper)
    if torch.is_grad_enabled() and (grad.requires_grad or x.requires_grad):
        return _RReLUGradient.apply(grad, x, seed, kernels, strides, lower, upper)
    return kernels.rrelu_backward(grad, x, seed, strides, lower, upper)


class _Dropout(Function):
    """Linear in `x`, and the transpose of itself: the same Function serves forward, backward and every later order."""

    @staticmethod
    def forward(ctx, x, seed, kernels, p, strides, inplace):  # type: ignore[override]
        dense = x if inplace and is_dense(x) else None
        y = kernels.dropout(x, seed, p, strides, dense)
        save(ctx, seed)
        ctx.constants = (kernels, p, y.stride())
        if inplace:
            y = y if y is x else x.copy_(y)
            ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        (seed,) = saved(ctx)
        kernels, p, strides = ctx.constants
        if not is_plain_call(grad, seed):
            grad_x = reference.times_kept(grad, seed, strides, p)
        elif torch.is_grad_enabled() and grad.requires_grad:
            grad_x = _Dropout.apply(grad, seed, kernels, p, strides, False)
        else:
            grad_x = kernels.dropout(grad, seed, p, strides)
        return grad_x, None, None, None, None, None


class _RReLUForm(route.Form):
    """Keeps the input and the seed or, where the kernels give them, the slopes."""

    family = "random"
    tensors = 1

    def forward(self, kernels: ModuleType, spec: Any, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        seed = _draw_seed(tensors[0])
        if records and isinstance(kernels, KeepingSlopes):
            y, slopes = kernels.rrelu_kept(tensors[0], seed, *spec)
            return y, seed, slopes
        return kernels.rrelu(tensors[0], seed, *spec), seed

    def keeps(self, spec: Any, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        _, seed, *slopes = made
        return tuple(slopes) or (tensors[0], seed)

    def backward_spec(self, spec: Any, tensors: Gradients, made: tuple[Tensor, ...]) -> Any:
        return (made[0].stride(), *spec)

    def backward(self, kernels: ModuleType, spec: Any, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        if len(kept) == 2:
            return (kernels.rrelu_backward(grad, *kept, *spec),)
        (slopes,), (strides, *_) = kept, spec
        product = slopes * grad
        if product.stride() != strides:
            product = product.new_empty_strided(product.shape, strides).copy_(product)
        return (product,)

    def differentiable(self, spec: Any, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        return (reference.times_slopes(grad, *kept, *spec) if len(kept) == 2 else grad * kept[0],)

    def elsewhere(self, spec: Any, *tensors: Any) -> Tensor:
        return _composed_rrelu(tensors[0], *spec)


class _DropoutForm(route.Form):
    """Keeps the seed and, where the kernels give them, its decisions."""

    family = "random"
    tensors = 1

    def forward(self, kernels: ModuleType, spec: Any, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        seed = _draw_seed(tensors[0])
        if not records:
            return kernels.dropout(tensors[0], seed, *spec), seed
        y, *packed = kernels.dropout_kept(tensors[0], seed, *spec)
        return y, seed, *packed

    def keeps(self, spec: Any, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        return made[1:]

    def backward_spec(self, spec: Any, tensors: Gradients, made: tuple[Tensor, ...]) -> Any:
        return (*spec, made[0].stride())

    def backward(self, kernels: ModuleType, spec: Any, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        return (kernels.dropout_again(grad, *spec, *kept),)

    def differentiable(self, spec: Any, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        p, strides = spec
        if is_plain_call(grad, kept[0]):  # linear in the gradient, and the transpose of itself
            return (_Dropout.apply(grad, kept[0], dispatch.kernels("random", grad), p, strides, False),)
        return (reference.times_kept(grad, kept[0], strides, p),)

    def elsewhere(self, spec: Any, *tensors: Any) -> Tensor:
        return _composed_dropout(tensors[0], *spec)


class _BernoulliForm(route.Form):
    """Keeps the input; backward is that of sigmoid, and draws nothing."""

    family = "random"
    tensors = 1

    def forward(self, kernels: ModuleType, spec: Any, records: bool, *tensors: Any) -> tuple[Tensor, ...]:
        return (kernels.bernoulli(tensors[0], _draw_seed(tensors[0])),)

    def keeps(self, spec: Any, tensors: Gradients, made: tuple[Tensor, ...]) -> Gradients:
        return tensors

    def backward(self, kernels: ModuleType, spec: Any, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        return (dispatch.select("sigmoid", grad).backward("sigmoid", grad, kept[0], 0.0, 0.0),)

    def differentiable(self, spec: Any, wanted: tuple[bool, ...], grad: Tensor, *kept: Any) -> Gradients:
        return (times(grad, "sigmoid", "d1", kept[0], 0.0, 0.0),)

    def elsewhere(self, spec: Any, *tensors: Any) -> Tensor:
        return reference.composed_bernoulli(tensors[0])


_RRELU, _DROPOUT, _BERNOULLI = _RReLUForm(), _DropoutForm(), _BernoulliForm()
