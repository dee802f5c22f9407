"""Gated recurrent units in C++; what each function computes is told in `contracts/recurrent.py`."""

from __future__ import annotations

import torch
from torch import Tensor


def gru_gates(given: Tensor, recurred: Tensor, hidden: Tensor) -> Tensor:
    following = hidden.new_empty(hidden.shape)
    torch.ops.nnkernels.gru_gates(given, recurred, hidden, following)
    return following


def gru_gates_backward(grad: Tensor, given: Tensor, recurred: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    found = given.new_empty(given.shape), given.new_empty(given.shape), hidden.new_empty(hidden.shape)
    torch.ops.nnkernels.gru_gates_backward(grad, given, recurred, hidden, *found)
    return found
