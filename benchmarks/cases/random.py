"""rrelu, dropout and Bernoulli units in training. Eager torch keeps noise, masks or probabilities; ours a seed or x."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

import nnkernels.functional as F

from . import Case


def _inputs(elements: int, device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    generator = torch.Generator(device).manual_seed(0)
    return (torch.randn(elements, device=device, dtype=dtype, generator=generator).requires_grad_(),)


def _streams(count: int, x: Tensor) -> int:
    return count * x.numel() * x.element_size()


def _case(
    name: str,
    ours: Callable[[Tensor], Tensor],
    eager: Callable[[Tensor], Tensor],
    backward_streams: int,
    device: str,
    dtype: torch.dtype,
    forward_bar: float | None,
    backward_bar: float | None = None,
) -> Case:
    return Case(
        f"{name}-{device}-{str(dtype).removeprefix('torch.')}",
        partial(_inputs, 2**27 if device == "cuda" else 2**17),
        ours,
        eager,
        partial(_streams, 2),
        partial(_streams, backward_streams),
        random=True,
        forward_bar=forward_bar,
        backward_bar=backward_bar,
        device=device,
        dtype=dtype,
    )


def _eager_bernoulli(x: Tensor) -> Tensor:
    mean = torch.sigmoid(x)
    return mean + (torch.bernoulli(mean) - mean).detach()


_rrelu = partial(_case, "rrelu", partial(F.rrelu, training=True), partial(torch.nn.functional.rrelu, training=True), 3)
_dropout = partial(_case, "dropout", F.dropout, torch.nn.functional.dropout, 2)
_bernoulli = partial(_case, "bernoulli", F.bernoulli_straight_through, _eager_bernoulli, 3)
_on_gpu = [
    _rrelu("cuda", torch.bfloat16, 0.90, 0.90),
    _dropout("cuda", torch.bfloat16, 0.90, 0.90),
]

CASES: list[Case] = [
    *_on_gpu,
    *(replace(case, name=f"compiled-{case.name}", compiled=True) for case in _on_gpu),
    _bernoulli("cuda", torch.bfloat16, 0.90, 0.90),
    _bernoulli("cuda", torch.float32, 0.90, 0.90),
    _rrelu("cuda", torch.float32, 0.90, 0.90),
    _dropout("cuda", torch.float32, 0.90, 0.90),
    _rrelu("cpu", torch.float32, 10.0),
    _rrelu("cpu", torch.bfloat16, 10.0),
    _dropout("cpu", torch.float32, 10.0),
    _dropout("cpu", torch.bfloat16, 10.0),
    _bernoulli("cpu", torch.float32, 2.0),
    _bernoulli("cpu", torch.bfloat16, 2.0),
]
