"""The gated recurrent unit as a module."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from ..functional.recurrent import gru_gates

__all__ = ["GRUCell"]


class GRUCell(torch.nn.GRUCell):
    """`torch.nn.GRUCell`: one step of gated recurrent units, which after its two products is one pass each way.

    Args:
        input_size: features of the input.
        hidden_size: units.
        bias: whether the products have biases.

    Shape: `(batch, input_size)` and the state before, `(batch, hidden_size)`, which is 0 if it is left out, to the next
        state, `(batch, hidden_size)`; or all of them without a batch.
    Raises:
        ValueError: the input has neither one dimension nor two, or the state does not fit.
        RuntimeError: the number of features does not fit.

    Source: Cho et al. 2014, Learning Phrase Representations using RNN Encoder-Decoder.

    Example:
        >>> import torch, nnkernels
        >>> cell, state = nnkernels.nn.GRUCell(8, 16), None
        >>> for x in torch.zeros(5, 2, 8):
        ...     state = cell(x, state)
        >>> state.shape
        torch.Size([2, 16])
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if input.dim() not in (1, 2):
            raise ValueError(f"GRUCell: expected an input of one dimension or two, got shape {tuple(input.shape)}")
        given = linear(input, self.weight_ih, self.bias_ih)
        if hx is None:
            hx = given.new_zeros((*input.shape[:-1], self.hidden_size))
        return gru_gates(given, linear(hx, self.weight_hh, self.bias_hh), hx.to(given.dtype))  # autocast's, for one
