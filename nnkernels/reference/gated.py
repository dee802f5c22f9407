"""The gated activations in plain torch operations: the truth, and the route for compilers and transforms."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..contracts.gated import Gating, gate_and_up, is_bounded
from ..registry import elementwise
from . import FORMULAS, compute_dtype, rounded

_SOFTCAP = FORMULAS["softcap"]


def _cap(x: Tensor, cap: float) -> tuple[float, float]:
    """The constants of softcap as `x`'s type takes them."""
    return rounded(x, cap, 0.0)


def _bounded(gating: Gating, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    if not is_bounded(gating):
        return gate, up
    limit, offset = rounded(gate, gating.limit, gating.offset)
    # Not `clamp`, whose derivative at NaN is 0.
    if not gating.limits_value:
        gate = torch.where(gate > limit, limit, gate)
    return gate, torch.where(up > limit, limit, torch.where(up < -limit, -limit, up)) + offset


def gated(gating: Gating, input: Tensor, up: Tensor | None = None) -> Tensor:
    return product(gating, input, up).to(input.dtype)


def product(gating: Gating, input: Tensor, up: Tensor | None) -> Tensor:
    """f(gate) up, in the type in which it is computed."""
    gate, up = gate_and_up(gating, input, up)
    wide = compute_dtype(input)
    gate, up = _bounded(gating, gate.to(wide), up.to(wide))
    value = FORMULAS[gating.activation].value(gate, *rounded(input, gating.a, gating.b))
    if gating.gate_cap < math.inf:
        value = value * _SOFTCAP.value(gate, *_cap(input, gating.gate_cap))
    if gating.up_cap < math.inf:
        up = _SOFTCAP.value(up, *_cap(input, gating.up_cap))
    if gating.limits_value:
        limit, _ = rounded(input, gating.limit, 0.0)
        value = torch.where(value > limit, limit, value)
    return value * up


def gated_backward(
    gating: Gating, grad: Tensor, input: Tensor, up: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    gate, linear = gate_and_up(gating, input, up)
    wide = compute_dtype(input)
    gate, linear, grad = gate.to(wide), linear.to(wide), grad.to(wide)
    bounded_gate, factor = _bounded(gating, gate, linear)
    formula = FORMULAS[gating.activation]
    constants = rounded(input, gating.a, gating.b)
    slope = formula.d1(bounded_gate, *constants)
    value = formula.value(bounded_gate, *constants)
    slope_of_up: Tensor | float = 1.0
    if gating.gate_cap < math.inf:
        constants = _cap(input, gating.gate_cap)
        capped = _SOFTCAP.value(gate, *constants)
        slope = slope * capped + value * _SOFTCAP.d1(gate, *constants)
        value = value * capped
    if gating.up_cap < math.inf:
        constants = _cap(input, gating.up_cap)
        factor, slope_of_up = _SOFTCAP.value(linear, *constants), _SOFTCAP.d1(linear, *constants)
    grad_gate = grad * factor * slope
    if elementwise(gating.activation).masks:
        grad_gate = torch.where(slope == 0, 0.0, grad_gate)
    limit, _ = rounded(input, gating.limit, 0.0)
    if gating.limits_value:
        grad_gate = torch.where(value > limit, 0.0, grad_gate)
        value = torch.where(value > limit, limit, value)
    else:
        grad_gate = torch.where(gate > limit, 0.0, grad_gate)
    grad_gate = grad_gate.to(input.dtype)
    grad_up = torch.where(linear.abs() > limit, 0.0, grad * value * slope_of_up).to(input.dtype)
    if up is not None:
        return grad_gate, grad_up
    packed = torch.empty_like(input)
    for part, gradient in zip(gate_and_up(gating, packed, None), (grad_gate, grad_up), strict=True):
        part.copy_(gradient)
    return packed, None
