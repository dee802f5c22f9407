"""Maxout in C++; what each function computes is told in `contracts/pooling.py`."""

from __future__ import annotations

import torch
from torch import Tensor


def maxout(x: Tensor, y: Tensor, winners: Tensor | None, pieces: int, inner: int) -> None:
    torch.ops.nnkernels.maxout(x, y, winners, pieces, inner)


def maxout_backward(grad: Tensor, winners: Tensor, grad_x: Tensor, pieces: int, inner: int) -> None:
    torch.ops.nnkernels.maxout_backward(grad, winners, grad_x, pieces, inner)
