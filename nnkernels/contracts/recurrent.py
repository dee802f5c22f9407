"""What a gated recurrent unit does after its two products of matrices, and its kernels.

With x = W_i input + b_i and h = W_h hidden + b_h, each of which has the blocks r, z and n:

    r    = sigmoid(x_r + h_r)
    z    = sigmoid(x_z + h_z)
    n    = tanh(x_n + r h_n)
    next = n + z (hidden - n)

Backward, from the gradient g of the next state, where a = x_n + r h_n:

    for a       g (1 - z) tanh'(a), which is x_n's; times r it is h_n's
    for x_r     (for a) h_n r (1 - r), which is h_r's too
    for x_z     g (hidden - n) z (1 - z), which is h_z's too
    for hidden  g z, without what comes through the products

Backward keeps x, h and the hidden state, and finds the gates again: r, z, n and h_n in their place would be fewer
numbers, but their roundings would cost the derivatives their tails, and forward would have to write them.

Kernels take matrices whose columns are adjacent, rows x 3 units for x and h, and rows x units for states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor


class Kernels(Protocol):
    """The kernels of gated recurrent units."""

    def gru_gates(self, given: Tensor, recurred: Tensor, hidden: Tensor) -> Tensor:
        """The next state from x, h and the state before."""

    def gru_gates_backward(
        self, grad: Tensor, given: Tensor, recurred: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of x, of h and of the state before."""


if TYPE_CHECKING:
    from ..cpu import recurrent as cpu
    from ..reference import recurrent as reference
    from ..triton import recurrent as triton

    _: tuple[Kernels, ...] = (cpu, triton, reference)
