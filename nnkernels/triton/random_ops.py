"""The random family as operators that a compiler sees; `autograd/random.py` calls them under torch.compile.

Inductor draws one number from each of its Philox calls, these kernels four or eight. The seed is a tensor that is drawn
within the graph, so that each replay of a CUDA graph draws anew. An operator is linear in its first tensor and draws
the same numbers for the same seed and strides, so that its derivative, to any order, is one of them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import triton_op, wrap_triton

from ..contracts.random import line, threshold
from ..contracts.requirements import Requirements
from ..names import PACKAGE
from .hardware import TILE_BYTES

# Compilers look in an operator's source for its kernels by these names, to know when what they cached is stale.
from .random_kernels import dropout as dropout_kernel
from .random_kernels import rrelu as rrelu_kernel
from .random_kernels import rrelu_backward as rrelu_backward_kernel


@triton_op(f"{PACKAGE}::rrelu_drawn", mutates_args=())
def rrelu(x: Tensor, seed: Tensor, lower: float, upper: float) -> Tensor:
    """x, times a slope drawn from [lower, upper] where x <= 0."""
    needs = Requirements("rrelu_drawn")
    needs.floating("x", x)
    needs.seed(seed, x)
    y = torch.empty_like(x)
    programs, more = _one_run(x, operands=1)
    wrap_triton(rrelu_kernel)[programs](_as(x, y), y, seed, *line(x.dtype, lower, upper), 1, x.numel(), 0, 0, **more)
    return y


@triton_op(f"{PACKAGE}::rrelu_drawn_backward", mutates_args=())
def rrelu_backward(grad: Tensor, x: Tensor, seed: Tensor, lower: float, upper: float) -> Tensor:
    """grad, times the slopes that `rrelu` drew where x <= 0."""
    needs = Requirements("rrelu_drawn_backward")
    needs.floating("x", x)
    needs.alike("grad", grad, x)
    needs.seed(seed, x)
    grad_x = torch.empty_like(x)
    programs, more = _one_run(x, operands=2)
    wrap_triton(rrelu_backward_kernel)[programs](
        _as(grad, grad_x), _as(x, grad_x), grad_x, seed, *line(x.dtype, lower, upper), 1, x.numel(), 0, 0, 0, **more
    )
    return grad_x


@triton_op(f"{PACKAGE}::dropout_drawn", mutates_args=())
def dropout(x: Tensor, seed: Tensor, strides: Sequence[int], p: float) -> Tensor:
    """x / (1 - p), or 0 with probability p, in a dense tensor with these strides."""
    needs = Requirements("dropout_drawn")
    needs.floating("x", x)
    needs.seed(seed, x)
    needs.dense(strides, x)
    needs.probability(p)
    # Not from `empty_strided`: AOTAutograd takes two calls of it for one, and copies.
    memory = torch.empty_like(x) if x.stride() == tuple(strides) else x.new_empty(x.numel())
    y = memory if memory.shape == x.shape else memory.as_strided(x.shape, strides)
    programs, more = _one_run(x, operands=1)
    # As a signed word, for Inductor (torch 2.11) fails at a constant beyond 2^31; the kernel reads the same 32 bits.
    least = threshold(p) - (threshold(p) >> 31 << 32)
    wrap_triton(dropout_kernel)[programs](_as(x, y), memory, seed, least, 1 / (1 - p), 1, x.numel(), 0, 0, **more)
    return y


def _one_run(x: Tensor, operands: int) -> tuple[tuple[Any], dict[str, Any]]:
    """The grid and the last arguments of a kernel whose operands are one run of elements."""
    block = TILE_BYTES // operands // x.element_size()
    # EVEN would make a variant of its own for every other number of elements, which may be a symbol.
    return ((x.numel() + block - 1) // block,), {"FLAT": True, "EVEN": False, "BLOCK_ROWS": 1, "BLOCK_COLS": block}


def _as(x: Tensor, y: Tensor) -> Tensor:
    """`x`, or a copy that lies in memory as `y` does."""
    return x if x.stride() == y.stride() else torch.empty_like(y).copy_(x)


def _keep_rrelu(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, seed, *ctx.bounds = inputs
    ctx.save_for_backward(x, seed)


def _differentiate_rrelu(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return rrelu_backward(grad, *ctx.saved_tensors, *ctx.bounds), None, None, None


def _keep_rrelu_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _keep_rrelu(ctx, inputs[1:], output)


def _differentiate_rrelu_backward(ctx: Any, grad_grad: Tensor) -> tuple[Tensor | None, ...]:
    x, _ = ctx.saved_tensors
    for_x = torch.zeros_like(x) if ctx.needs_input_grad[1] else None
    return rrelu_backward(grad_grad, *ctx.saved_tensors, *ctx.bounds), for_x, None, None, None


def _keep_dropout(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, seed, *ctx.constants = inputs
    ctx.save_for_backward(seed)


def _differentiate_dropout(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return dropout(grad, *ctx.saved_tensors, *ctx.constants), None, None, None


# What the operators' own text would give as well, but without a look at the kernels.
rrelu.register_fake(lambda x, seed, lower, upper: torch.empty_like(x))
rrelu_backward.register_fake(lambda grad, x, seed, lower, upper: torch.empty_like(x))
dropout.register_fake(lambda x, seed, strides, p: x.new_empty_strided(x.shape, strides))
rrelu.register_autograd(_differentiate_rrelu, setup_context=_keep_rrelu)
rrelu_backward.register_autograd(_differentiate_rrelu_backward, setup_context=_keep_rrelu_backward)
dropout.register_autograd(_differentiate_dropout, setup_context=_keep_dropout)
