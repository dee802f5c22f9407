"""The gated activations in C++."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts.gated import Gating, gate_and_up, halves
from ..native import index_of


def gated(gating: Gating, input: Tensor, up: Tensor | None = None) -> Tensor:
    gate, up = gate_and_up(gating, input, up)
    y = torch.empty_like(gate)
    torch.ops.nnkernels.gated.default(gate, up, y, index_of(gating.activation), *_constants(gating))
    return y


def gated_backward(
    gating: Gating, grad: Tensor, input: Tensor, up: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    gate, linear = gate_and_up(gating, input, up)
    grad_input = torch.empty_like(input)
    grad_up = None if up is None else torch.empty_like(input)
    grads = halves(gating, grad_input) if grad_up is None else (grad_input, grad_up)
    torch.ops.nnkernels.gated_backward.default(
        grad, gate, linear, *grads, index_of(gating.activation), *_constants(gating)
    )
    return grad_input, grad_up


def _constants(gating: Gating) -> tuple[float, float, float, float, bool, float, float]:
    return gating.a, gating.b, gating.limit, gating.offset, gating.limits_value, gating.gate_cap, gating.up_cap
