"""Maxout in torch operations."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts.pooling import packed_bytes, width
from ..layout import memory_order, restored


def composed(x: Tensor, pieces: int, dim: int) -> Tensor:
    """Maxout for any tensor, differentiable to any order; `dim` is not negative. The output lies as the input does."""
    order = memory_order(x)
    groups = x.shape[dim] // pieces
    if order is None:
        return x.unflatten(dim, (groups, pieces)).max(dim + 1).values
    at = order.index(dim)
    return restored(x.permute(order).unflatten(at, (groups, pieces)).max(at + 1).values, order)


def maxout(x: Tensor, y: Tensor, winners: Tensor | None, pieces: int, inner: int) -> None:
    values, index = _arranged(x, pieces, inner).max(1)
    _arranged(y, 1, inner).copy_(values.unsqueeze(1))
    if winners is not None:
        winners.copy_(_packed(index, pieces))


def maxout_backward(grad: Tensor, winners: Tensor, grad_x: Tensor, pieces: int, inner: int) -> None:
    _arranged(grad_x, pieces, inner).copy_(scattered(_arranged(grad, 1, inner).squeeze(1), winners, pieces))


def _arranged(x: Tensor, pieces: int, inner: int) -> Tensor:
    """The memory of a dense tensor as rows x pieces x inner."""
    rows = x.numel() // max(pieces * inner, 1)
    return x.as_strided((rows, pieces, inner), (pieces * inner, inner, 1))


def scattered(grad: Tensor, winners: Tensor, pieces: int) -> Tensor:
    """`grad` (rows x inner) at the winners, 0 elsewhere; its own derivative gathers at the winners."""
    rows, inner = grad.shape
    index = _unpacked(winners, rows * inner, pieces).view(rows, 1, inner)
    return grad.new_zeros(rows, pieces, inner).scatter(1, index, grad.unsqueeze(1))


def _shifts(bits: int, device: torch.device) -> Tensor:
    return torch.arange(0, 8, bits, dtype=torch.uint8, device=device)


def _packed(index: Tensor, pieces: int) -> Tensor:
    bits = width(pieces)
    codes = torch.zeros(packed_bytes(index.numel(), pieces) * 8 // bits, dtype=torch.uint8, device=index.device)
    codes[: index.numel()] = index.flatten()
    return (codes.view(-1, 8 // bits) << _shifts(bits, index.device)).sum(1, dtype=torch.uint8)


def _unpacked(winners: Tensor, elements: int, pieces: int) -> Tensor:
    bits = width(pieces)
    codes = (winners.unsqueeze(1) >> _shifts(bits, winners.device)) & ((1 << bits) - 1)
    return codes.flatten()[:elements].long()
