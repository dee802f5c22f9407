"""bias + activation + dropout + residual as operators that a compiler sees.

Under torch.compile dropout alone makes this pass ours: Inductor fuses the rest as well, but draws one number from each
of its Philox calls. The seed is drawn within the graph, so that each replay of a CUDA graph draws anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from .. import dispatch
from ..contracts.requirements import Requirements
from ..fusing import Inner
from ..names import PACKAGE
from ..registry import IDENTITY
from . import fused
from .context import differentiable_gradients


@custom_op(f"{PACKAGE}::bias_act_drawn", mutates_args=())
def bias_act(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    seed: Tensor,
    activation: str,
    a: float,
    b: float,
    dim: int | None,
    p: float,
) -> Tensor:
    """dropout(f(x + bias)) + residual, as `fused.call` has it, with the numbers that `seed` gives."""
    needs = Requirements("bias_act_drawn")
    _check(needs, x, bias, seed, dim, p)
    if residual is not None:
        needs.alike("residual", residual, x)
    kernels = dispatch.kernels("fused", x, activation)
    y = fused._forward(kernels, Inner(activation, a, b), x, bias, residual, seed, dim, p)
    return y.as_strided(x.shape, torch.empty_like(x, device="meta").stride())


@custom_op(f"{PACKAGE}::bias_act_drawn_backward", mutates_args=())
def bias_act_backward(
    grad: Tensor,
    x: Tensor | None,
    bias: Tensor | None,
    seed: Tensor,
    strides: Sequence[int],
    activation: str,
    a: float,
    b: float,
    dim: int | None,
    p: float,
    wants_bias: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients of x and of the bias (empty if nobody wants it); `strides` are those of forward's output."""
    needs = Requirements("bias_act_drawn_backward")
    _check(needs, grad, bias, seed, dim, p)
    if x is not None:
        needs.alike("x", x, grad)
    needs.that(x is not None or activation == IDENTITY.name, f"x is None, which {activation} differentiates at")
    needs.dense(strides, grad)
    kernels = dispatch.kernels("fused", grad, activation)
    inner = Inner(activation, a, b)
    for_x, for_bias = fused._backward(kernels, grad, x, bias, seed, inner, dim, p, tuple(strides), wants_bias)
    return for_x, grad.new_empty(0) if for_bias is None else for_bias


def _check(needs: Requirements, like: Tensor, bias: Tensor | None, seed: Tensor, dim: int | None, p: float) -> None:
    needs.floating("the input", like)
    needs.seed(seed, like)
    needs.probability(p)
    if dim is not None:
        needs.dim(dim, like)
    if bias is not None:
        needs.that(dim is not None, "bias is given without dim")
        needs.vector("bias", bias, like.shape[dim or 0], like)


@bias_act.register_fake
def _like_x(x: Tensor, *more: Any) -> Tensor:
    return torch.empty_like(x)


@bias_act_backward.register_fake
def _like_x_and_bias(
    grad: Tensor, x: Tensor | None, bias: Tensor | None, seed: Tensor, strides: Sequence[int], *more: Any
) -> tuple[Tensor, Tensor]:
    for_bias = torch.empty_like(bias) if bias is not None and more[-1] else grad.new_empty(0)
    return grad.new_empty_strided(grad.shape, strides), for_bias


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, bias, _, seed, *ctx.constants = inputs
    ctx.save_for_backward(None if ctx.constants[0] == IDENTITY.name else x, bias, seed)
    ctx.strides = output.stride()


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, bias, seed = ctx.saved_tensors
    wants_x, wants_bias, wants_residual = ctx.needs_input_grad[:3]
    for_x = for_bias = None
    if wants_x or wants_bias:
        for_x, for_bias = bias_act_backward(grad, x, bias, seed, ctx.strides, *ctx.constants, wants_bias)
    return for_x, for_bias if wants_bias else None, grad if wants_residual else None, *[None] * 6


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    grad, x, bias, seed, ctx.strides, name, a, b, *ctx.constants = inputs
    ctx.inner = Inner(name, a, b)
    ctx.save_for_backward(grad, x, bias, seed)


def _differentiate_backward(ctx: Any, along_x: Tensor | None, along_bias: Tensor | None) -> tuple[Tensor | None, ...]:
    """In torch operations: second derivatives are rare."""
    grad, x, bias, seed = ctx.saved_tensors
    dim, p, wants_bias = ctx.constants

    def weighed(grad: Tensor, *given: Tensor) -> Tensor:
        rest = iter(given)
        x_again, bias_again = (None if tensor is None else next(rest) for tensor in (x, bias))
        found = fused._differentiable(
            grad, x_again, bias_again, seed, ctx.inner, dim, p, tuple(ctx.strides), wants_bias
        )
        pairs = zip(found, (along_x, along_bias), strict=True)
        return sum((one * along).sum() for one, along in pairs if one is not None and along is not None)  # type: ignore

    given = [tensor for tensor in (grad, x, bias) if tensor is not None]
    gradients = iter(differentiable_gradients(weighed, given, grad.new_ones(())))
    return *(None if tensor is None else next(gradients) for tensor in (grad, x, bias)), *[None] * 8


bias_act.register_autograd(_differentiate, setup_context=_keep)
bias_act_backward.register_autograd(_differentiate_backward, setup_context=_keep_backward)
