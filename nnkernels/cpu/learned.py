"""The activations with learned parameters, in C++."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_NAMES = ("prelu", "swish", "apl", "xielu", "snake", "snake_beta", "starrelu", "dyt")
"""In the order of `Learned` in csrc/cpu/learned.h."""


def forward(
    name: str,
    x: Tensor,
    parameters: Sequence[Tensor],
    constants: tuple[float, ...] = (),
    out: Tensor | None = None,
) -> Tensor:
    contiguous = [p.contiguous() for p in parameters]
    y = torch.ops.nnkernels.learned_forward(x, _NAMES.index(name), contiguous, constants)
    return y if out is None else out.copy_(y)


def backward(
    name: str,
    grad: Tensor,
    x: Tensor,
    parameters: Sequence[Tensor],
    constants: tuple[float, ...],
    for_parameters: bool,
) -> tuple[Tensor, Sequence[Tensor]]:
    contiguous = [p.contiguous() for p in parameters]
    return torch.ops.nnkernels.learned_backward(grad, x, _NAMES.index(name), contiguous, constants, for_parameters)


def prelu_signs(x: Tensor, y: Tensor, weight: Tensor, inner: int) -> Tensor:
    return torch.ops.nnkernels.prelu_signs(x, y, weight.contiguous(), inner)


def prelu_from_signs(grad: Tensor, packed: Tensor, weight: Tensor, inner: int) -> Tensor:
    return torch.ops.nnkernels.prelu_from_signs(grad, packed, weight.contiguous(), inner)
