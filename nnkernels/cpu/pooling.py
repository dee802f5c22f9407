"""Maxout in C++; what each function computes is told in `reference/pooling.py`."""

from __future__ import annotations

import torch
from torch import Tensor


def maxout(x: Tensor, y: Tensor, winners: Tensor | None) -> None:
    torch.ops.nnkernels.maxout(x, y, winners)


def maxout_backward(grad: Tensor, winners: Tensor, grad_x: Tensor) -> None:
    torch.ops.nnkernels.maxout_backward(grad, winners, grad_x)
