"""Gated recurrent units: what is left of a step after its products of matrices."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ..arguments import accepts, refusal
from ..autograd import recurrent as autograd
from ..autograd.shortcut import shortcut

__all__ = ["gru_gates"]


@shortcut
def gru_gates(input_gates: Tensor, hidden_gates: Tensor, hidden: Tensor) -> Tensor:
    """The next state of gated recurrent units, from W_i x + b_i, W_h h + b_h and the state h before.

    With the blocks r, z and n of the two, in the order and with the reset gate of `torch.nn.GRU`:

        r = sigmoid(i_r + h_r),  z = sigmoid(i_z + h_z),  n = tanh(i_n + r h_n),  h' = n + z (h - n)

    One pass each way.

    Args:
        input_gates: `(*, 3 units)`, what the input gives; float64, float32, bfloat16 or float16.
        hidden_gates: the same of the state before.
        hidden: the state before, `(*, units)`.

    Returns:
        The next state, `(*, units)`, contiguous.

    Raises:
        ValueError: the shapes do not fit.
        TypeError: an argument is no tensor, or of another type than `hidden`.
        NotImplementedError: the type is not one of the four, or a tensor is jagged or sparse.
        RuntimeError: the devices differ, or the backend chosen by name cannot serve the input.

    Backward keeps the three arguments and finds the gates again.
    Source: Cho et al. 2014, Learning Phrase Representations using RNN Encoder-Decoder; torch's reset gate is the one
    that cuDNN can apply after the product.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.gru_gates(torch.zeros(1, 6), torch.zeros(1, 6), torch.tensor([[1.0, -1.0]]))
        tensor([[ 0.5000, -0.5000]])
    """
    given = (input_gates, hidden_gates, hidden)
    if has_torch_function(given):
        return handle_torch_function(gru_gates, given, *given)
    _check("hidden", hidden, hidden, 1)
    _check("input_gates", input_gates, hidden, 3)
    _check("hidden_gates", hidden_gates, hidden, 3)
    return autograd.gru_gates(*given)


def _check(name: str, tensor: Tensor, hidden: Tensor, blocks: int) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"gru_gates(): argument {name!r} must be Tensor, not {type(tensor).__name__}")
    if not accepts(tensor):
        raise NotImplementedError(refusal("gru_gates", tensor, name))
    if tensor.layout == torch.jagged:
        raise NotImplementedError(
            f"gru_gates(): jagged tensors are not supported ({name} of shape {tuple(tensor.shape)}); use .values()"
        )
    if hidden.dim() == 0:
        raise ValueError("gru_gates(): hidden has the shape (*, units), got ()")
    expected = (*hidden.shape[:-1], blocks * hidden.shape[-1])
    if tensor.shape != expected:
        raise ValueError(
            f"gru_gates(): {name} has shape {tuple(tensor.shape)}, expected {expected}, three numbers for each of the "
            f"units of hidden, which is {tuple(hidden.shape)}"
        )
    if tensor.dtype != hidden.dtype:
        raise TypeError(f"gru_gates(): {name} is {tensor.dtype}, hidden {hidden.dtype}; give {name}.to({hidden.dtype})")
    if tensor.device != hidden.device:
        raise RuntimeError(f"gru_gates(): {name} is on {tensor.device}, hidden on {hidden.device}")
