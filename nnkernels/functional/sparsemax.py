"""Sparsemax as a function."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from ..arguments import accepts, integer, refusal
from ..autograd import sparsemax as autograd
from ..autograd.shortcut import shortcut

__all__ = ["sparsemax"]


@shortcut
def sparsemax(input: Tensor, dim: int = -1) -> Tensor:
    """max(z_i - t, 0) along `dim`, t such that they sum to 1: the point of the probability simplex nearest to z.

    A softmax most of whose results are exactly 0. Backward keeps the output and nothing else. Results are exact to
    their type's last digit or two also where they are differences of nearly equal logits; in float16 the least that is
    not 0 is 2^-24, so that backward sees it.

    Args:
        input: a tensor of any shape and layout; float64, float32, bfloat16 or float16.
        dim: the dimension along which the results sum to 1; negative ones count from the last.

    Returns:
        A tensor of the shape and type of `input` that lies in memory as it does. A row with a NaN or +inf, or with
        nothing but -inf, is NaN, as softmax's is; -inf beside finite logits gives 0.

    Raises:
        IndexError: there is no dimension `dim`.
        TypeError: the input is no tensor.
        NotImplementedError: the type is not one of the four, or the tensor is jagged.
        RuntimeError: the backend chosen by name cannot serve the input.

    Source: Martins & Astudillo 2016, From Softmax to Sparsemax; the threshold is Michelot's (1986).

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.sparsemax(torch.tensor([[1.0, 0.5, -1.0], [3.0, 0.0, 0.0]]))
        tensor([[0.7500, 0.2500, 0.0000],
                [1.0000, 0.0000, 0.0000]])
    """
    if has_torch_function_unary(input):
        return handle_torch_function(sparsemax, (input,), input, dim)
    if not isinstance(input, Tensor):
        raise TypeError(f"sparsemax(): argument 'input' must be Tensor, not {type(input).__name__}")
    if not accepts(input) or input.layout == torch.jagged:
        raise NotImplementedError(refusal("sparsemax", input))
    dims = input.dim() or 1
    dim = integer("sparsemax", "dim", dim)
    if not -dims <= dim < dims:
        raise IndexError(
            f"sparsemax(): dim {dim} is out of range for an input of shape {tuple(input.shape)}; "
            f"choose one from {-dims} to {dims - 1}"
        )
    return autograd.sparsemax(input, dim % dims)
