"""Capsules: squash, and routing by agreement in three rounds, of which backward reads the votes once more."""

from __future__ import annotations

import torch
from torch import Tensor

import nnkernels.functional as F

from . import Case


def squash(x: Tensor) -> Tensor:
    """What a user of torch writes."""
    square = x.square().sum(-1, keepdim=True)
    return x * (square.clamp(min=torch.finfo(x.dtype).tiny).sqrt() / (1 + square))


def route(votes: Tensor, rounds: int = 3) -> Tensor:
    """The same."""
    agreement = votes.new_zeros(votes.shape[:3])
    heard = votes.detach()
    for _ in range(rounds - 1):
        above = squash(torch.einsum("bia,bias->bas", agreement.softmax(-1), heard))
        agreement = agreement + torch.einsum("bas,bias->bia", above, heard)
    return squash(torch.einsum("bia,bias->bas", agreement.softmax(-1), votes))


def step(votes: Tensor) -> Tensor:
    """One round."""
    return route(votes, 1)


def our_step(votes: Tensor) -> Tensor:
    return F.route(votes, 1)


def _case(name: str, ours, eager, shape: tuple[int, ...], device: str, bar: float | None) -> Case:  # type: ignore[no-untyped-def]
    def inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return ((0.3 * torch.randn(shape, device=device)).to(dtype).requires_grad_(),)

    size = "x".join(map(str, shape))
    return Case(
        f"{name}-{size}", inputs, ours, eager,
        lambda x: (2 if name == "squash" else 1) * x.numel() * x.element_size(),
        lambda x: (3 if name == "squash" else 2) * x.numel() * x.element_size(),
        # Each round takes the error of the one before into an exponential: eager's own in float32 is 29 to 37 epsilons.
        slack=2.0 if name == "route" else 1.0, device=device, dtype=torch.float32, forward_bar=bar, backward_bar=bar,
    )  # fmt: skip


CASES = [
    _case("squash", F.squash, squash, (128, 1152, 8), "cuda", None),
    _case("route", F.route, route, (128, 1152, 10, 16), "cuda", None),
    _case("route-step", our_step, step, (128, 1152, 10, 16), "cuda", None),
    _case("squash", F.squash, squash, (64, 128, 8), "cpu", 3.0),
    _case("squash", F.squash, squash, (16, 1152, 8), "cpu", 3.0),
    _case("route", F.route, route, (64, 128, 10, 16), "cpu", 3.0),
    _case("route", F.route, route, (16, 1152, 10, 16), "cpu", 3.0),
    _case("route-step", our_step, step, (64, 128, 10, 16), "cpu", 3.0),
    _case("route-step", our_step, step, (16, 1152, 10, 16), "cpu", 3.0),
]
