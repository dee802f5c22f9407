"""The kernels of the stateless activations."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Backend(Protocol):
    """One implementation of the whole family. `name` is a row of the catalogue, `a` and `b` its constants."""

    name: str

    def unavailable(self, device: torch.device) -> str | None:
        """None if tensors on `device` can be computed, else one sentence why not."""

    def has(self, name: str) -> bool:
        """Whether the row called `name` is implemented."""

    def forward(self, name: str, x: Tensor, a: float, b: float, out: Tensor | None = None) -> Tensor:
        """f(x), in `x`'s own memory where `out` is `x`."""

    def backward(self, name: str, grad: Tensor, x: Tensor, a: float, b: float) -> Tensor:
        """grad f'(x)"""

    def double_backward(
        self, name: str, grad_grad: Tensor, grad: Tensor, x: Tensor, a: float, b: float
    ) -> tuple[Tensor, Tensor]:
        """grad_grad f'(x), which is the gradient for `grad`, and grad_grad grad f''(x), the one for `x`"""
