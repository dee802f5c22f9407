"""Products of matrices with an activation where they end, and their kernels.

    linear_act     y = f(x W^T + b)
    mlp            h = f(x W1^T + b1),                            y = h W2^T + b2
    gated_mlp      h = f(x Wg^T + bg) (x Wu^T + bu),              y = h Wd^T + bd
    maxout_linear  y[o] = max over p of (x W^T + b)[o pieces + p]

A weight is (out, in), as torch.nn.Linear has it, and x is (..., in). Of what lies between two products backward keeps
one tensor for each product that made it, and finds h again for the gradient of the weight behind it:

    d = (grad W2) f'(z),    grad_W2 = grad^T f(z),    grad_x = d W1,    grad_W1 = d^T x,    grad_b1 = sum of d's rows

where z is the pre-activation x W1^T + b1. Where f' at the result is f' at z, as of relu, the result is kept instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from torch import Tensor

from ..registry import elementwise
from .gated import Gating
from .inner import Inner


class Ending(NamedTuple):
    """What stands behind a product.

    Attributes:
        inner: the activation.
        exact: whether the pre-activation is rounded to its type before the activation sees it.
    """

    inner: Inner
    exact: bool


def keeps_result(inner: Inner) -> bool:
    """Whether backward keeps f(z) rather than z, since the derivative there is the same."""
    return elementwise(inner.name).keeps_output(inner.a, inner.b)


class Kernels(Protocol):
    """The kernels of products and activations. Matrices, x apart, are contiguous."""

    def linear_act(
        self, ending: Ending, x: Tensor, weight: Tensor, bias: Tensor | None, keeps: bool
    ) -> tuple[Tensor, Tensor]:
        """f(x W^T + b), and what backward is to keep if it `keeps` anything: z, or the result itself."""

    def activation_backward(
        self, inner: Inner, grad: Tensor, kept: Tensor, sums: bool, again: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """d = grad f'(z) of matrices, the sums of d's columns, and f(z) again, where they are asked for."""

    def hidden_backward(
        self, inner: Inner, grad: Tensor, weight: Tensor, kept: Tensor, sums: bool, again: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The same of grad W: what stands before a product of weight W, (out, hidden), whose gradient `grad` is."""

    def gated(self, gating: Gating, gate: Tensor, up: Tensor | None) -> Tensor:
        """f(gate) up, of two matrices or of one that holds both."""

    def gated_backward(
        self, gating: Gating, grad: Tensor, gate: Tensor, up: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The gradients of gate and up, or of the one that holds both and None; and f(gate) up again."""

    def linear_maxout(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, pieces: int, keeps: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The greatest of each `pieces` neighbouring outputs and, if asked for, the winners as `pooling` has them."""

    def maxout_backward(self, grad: Tensor, winners: Tensor, pieces: int) -> Tensor:
        """The gradient of the wide product: (rows, pieces n) of a gradient (rows, n)."""


if TYPE_CHECKING:
    from ..cpu import linear as cpu
    from ..cuda import linear as cuda
    from ..reference import linear as reference
    from ..triton import linear as triton

    _: tuple[Kernels, ...] = (cpu, cuda, triton, reference)
