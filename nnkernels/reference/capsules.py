"""Capsules in torch operations; the formulas are told in `contracts/capsules.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from . import base


def _factor(x: Tensor, dim: int) -> Tensor:
    """What a vector is multiplied by; its derivative at 0 is 0."""
    square = x.square().sum(dim, keepdim=True)
    return square.clamp(min=torch.finfo(x.dtype).tiny).sqrt() / (1 + square)


def squashed(x: Tensor, dim: int) -> Tensor:
    """For any tensor, differentiable to any order."""
    wide = x.to(base.compute_dtype(x))
    return (wide * _factor(wide, dim)).to(x.dtype)


def routed(votes: Tensor, rounds: int) -> Tensor:
    """The same."""
    wide = votes.to(base.compute_dtype(votes))
    heard = _heard(wide.detach(), rounds)
    total = _sum(_shares(wide.detach(), heard), wide)
    return (total * _factor(total, -1)).to(votes.dtype)


def _shares(votes: Tensor, heard: Tensor | None) -> Tensor:
    if heard is None:
        return votes.new_full(votes.shape[:-1], 1 / max(1, votes.shape[2]))
    return torch.softmax((votes * heard.unsqueeze(1)).sum(-1), -1)


def _sum(shares: Tensor, votes: Tensor) -> Tensor:
    return (shares.unsqueeze(-1) * votes).sum(1)


def _heard(votes: Tensor, rounds: int) -> Tensor | None:
    """The sum of the capsules above over all rounds but the last; None if there is but one."""
    heard: Tensor | None = None
    for _ in range(rounds - 1):
        total = _sum(_shares(votes, heard), votes)
        above = total * _factor(total, -1)
        heard = above if heard is None else heard + above
    return heard


def squash(x: Tensor, y: Tensor, size: int, inner: int) -> None:
    y.copy_(squashed(x.view(-1, size, inner), 1).view(y.shape))


def squash_backward(grad: Tensor, x: Tensor, grad_x: Tensor, size: int, inner: int) -> None:
    vectors, given = (t.view(-1, size, inner).to(base.compute_dtype(x)) for t in (x, grad))
    grad_x.copy_(_pulled(vectors, given, 1).view(grad_x.shape))


def _pulled(x: Tensor, grad: Tensor, dim: int) -> Tensor:
    """The gradient of x, told that of squash(x)."""
    square = x.square().sum(dim, keepdim=True)
    length = square.clamp(min=torch.finfo(x.dtype).tiny).sqrt()
    slope = (1 - square) / (length * (1 + square).square())
    return grad * _factor(x, dim) + x * (slope * (x * grad).sum(dim, keepdim=True))


def route(votes: Tensor, capsules: Tensor, shares: Tensor | None, sums: Tensor | None, rounds: int) -> None:
    wide = votes.to(base.compute_dtype(votes))
    found = _shares(wide, _heard(wide, rounds))
    total = _sum(found, wide)
    capsules.copy_(total * _factor(total, -1))
    if shares is not None and sums is not None:
        shares.copy_(found)
        sums.copy_(total)


def route_backward(grad: Tensor, shares: Tensor, sums: Tensor, grad_votes: Tensor) -> None:
    wide = _pulled(sums, grad.to(sums.dtype), -1)
    grad_votes.copy_(shares.unsqueeze(-1) * wide.unsqueeze(1))
