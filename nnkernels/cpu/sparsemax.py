"""Sparsemax in C++; what each function computes is told in `contracts/sparsemax.py`."""

from __future__ import annotations

import torch
from torch import Tensor


def sparsemax(x: Tensor, y: Tensor, size: int, inner: int) -> None:
    torch.ops.nnkernels.sparsemax(x, y, size, inner)


def sparsemax_backward(grad: Tensor, y: Tensor, grad_x: Tensor, size: int, inner: int) -> None:
    torch.ops.nnkernels.sparsemax_backward(grad, y, grad_x, size, inner)
