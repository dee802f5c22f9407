"""Gated recurrent units in torch operations; the formulas are told in `contracts/recurrent.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from . import base


def gru_gates(given: Tensor, recurred: Tensor, hidden: Tensor) -> Tensor:
    """The next state, of any leading dimensions and differentiable to any order."""
    wide = base.compute_dtype(hidden)
    x, h, state = given.to(wide).chunk(3, -1), recurred.to(wide).chunk(3, -1), hidden.to(wide)
    reset, keep = torch.sigmoid(x[0] + h[0]), torch.sigmoid(x[1] + h[1])
    candidate = torch.tanh(x[2] + reset * h[2])
    return (candidate + keep * (state - candidate)).to(hidden.dtype)


def gru_gates_backward(grad: Tensor, given: Tensor, recurred: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    wide = base.compute_dtype(hidden)
    g, state = grad.to(wide), hidden.to(wide)
    (x_r, x_z, x_n), (h_r, h_z, h_n) = given.to(wide).chunk(3, -1), recurred.to(wide).chunk(3, -1)
    (reset, to_reset), (keep, to_keep) = (
        (torch.sigmoid(logit), torch.sigmoid(-logit)) for logit in (x_r + h_r, x_z + h_z)
    )
    inside = x_n + reset * h_n
    for_candidate = g * to_keep / torch.cosh(inside).square()
    for_reset = for_candidate * h_n * reset * to_reset
    for_keep = g * (state - torch.tanh(inside)) * keep * to_keep
    return (
        torch.cat([for_reset, for_keep, for_candidate], -1).to(given.dtype),
        torch.cat([for_reset, for_keep, for_candidate * reset], -1).to(given.dtype),
        (g * keep).to(hidden.dtype),
    )
