"""The kernels of the activations with learned parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Kernels(Protocol):
    """The kernels of the activations with learned parameters, by name.

    The parameters of a call are all single, or all one for each channel; `constants` are numbers besides, of as many as
    the activation has.
    """

    def forward(
        self,
        name: str,
        x: Tensor,
        parameters: Sequence[Tensor],
        constants: tuple[float, ...] = (),
        out: Tensor | None = None,
    ) -> Tensor:
        """The value, in `x`'s own memory where `out` is `x`."""

    def backward(
        self,
        name: str,
        grad: Tensor,
        x: Tensor,
        parameters: Sequence[Tensor],
        constants: tuple[float, ...],
        for_parameters: bool,
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """The gradient for `x`, and those for the parameters if they are wanted."""

    def prelu_signs(self, x: Tensor, y: Tensor, weight: Tensor, inner: int) -> Tensor:
        """Writes prelu to `y`, which may be `x`, and returns one bit for each element, set where not x > 0.

        Both are of one dimension, adjacent in memory; element i belongs to channel i // inner, counted round and round.
        """

    def prelu_from_signs(self, grad: Tensor, packed: Tensor, weight: Tensor, inner: int) -> Tensor:
        """grad, times the weight where `prelu_signs` set a bit."""
