"""The stateless activations in torch operations, as a backend."""

from __future__ import annotations

import torch
from torch import Tensor

from . import FORMULAS, evaluate, times


class Reference:
    """The whole family as an object, as `contracts/elementwise.py` asks for it."""

    name = "reference"

    def unavailable(self, device: torch.device) -> str | None:
        return None

    def has(self, name: str) -> bool:
        return name in FORMULAS

    def forward(self, name: str, x: Tensor, a: float, b: float, out: Tensor | None = None) -> Tensor:
        value = evaluate(name, "value", x, a, b)
        return value if out is None else out.copy_(value)

    def backward(self, name: str, grad: Tensor, x: Tensor, a: float, b: float) -> Tensor:
        return times(grad, name, "d1", x, a, b)

    def double_backward(
        self, name: str, grad_grad: Tensor, grad: Tensor, x: Tensor, a: float, b: float
    ) -> tuple[Tensor, Tensor]:
        for_grad = times(grad_grad, name, "d1", x, a, b)
        return for_grad, times(grad_grad, name, "d2", x, a, b, also=grad)
