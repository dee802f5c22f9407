"""Capsules in C++; what each function computes is told in `contracts/capsules.py`."""

from __future__ import annotations

import torch
from torch import Tensor


def squash(x: Tensor, y: Tensor, size: int, inner: int) -> None:
    torch.ops.nnkernels.squash(x, y, size, inner)


def squash_backward(grad: Tensor, x: Tensor, grad_x: Tensor, size: int, inner: int) -> None:
    torch.ops.nnkernels.squash_backward(grad, x, grad_x, size, inner)


def route(votes: Tensor, capsules: Tensor, shares: Tensor | None, sums: Tensor | None, rounds: int) -> None:
    torch.ops.nnkernels.route(votes, capsules, shares, sums, rounds)


def route_backward(grad: Tensor, shares: Tensor, sums: Tensor, grad_votes: Tensor) -> None:
    torch.ops.nnkernels.route_backward(grad, shares, sums, grad_votes)
