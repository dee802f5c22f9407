"""Content addressing in C++; what each function computes is told in `contracts/addressing.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts.addressing import Gradients, Operands


def content_addressing(operands: Operands, eps: float, where: Tensor) -> None:
    torch.ops.nnkernels.content_addressing(*operands, where, eps)


def content_addressing_backward(grad: Tensor, operands: Operands, eps: float, gradients: Gradients) -> None:
    torch.ops.nnkernels.content_addressing_backward(grad, *operands, *gradients, eps)
