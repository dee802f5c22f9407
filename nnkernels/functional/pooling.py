"""The activations that keep one of several channels, as functions."""

from __future__ import annotations

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from ..arguments import accepts, check_whole, integer, refusal
from ..autograd import pooling as autograd
from ..autograd.shortcut import shortcut

__all__ = ["maxout"]


@shortcut
def maxout(input: Tensor, num_pieces: int, dim: int = 1) -> Tensor:
    """The greatest of each `num_pieces` neighbouring channels: y[o] = max over p of x[o num_pieces + p].

    Of equal pieces the first gets the gradient, and NaN wins, as in `torch.max`. Backward keeps which piece won and
    nothing else: 1 bit for each element of the result with 2 pieces, 2 with up to 4, 4 with up to 16, 8 with up to 256,
    none with 1. More pieces than that are served by torch operations.

    Args:
        input: `(*, num_pieces * C, *)`, the channels being dimension `dim`, in any layout; float64, float32, bfloat16
            or float16.
        num_pieces: how many channels form a group; it divides their number.
        dim: the dimension of the channels; negative numbers count from the last.

    Returns:
        A tensor of shape `(*, C, *)` that lies in memory as `input` does, channels_last for instance.

    Raises:
        ValueError: `num_pieces` is less than 1 or does not divide the channels, or `input` has no dimensions.
        IndexError: there is no dimension `dim`.
        NotImplementedError: the type is not one of the four.
        RuntimeError: the backend chosen by name cannot serve the input.

    Source: Goodfellow, Warde-Farley, Mirza, Courville & Bengio 2013, Maxout Networks.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.maxout(torch.tensor([[1.0, 5.0, -2.0, -3.0]]), 2)
        tensor([[ 5., -2.]])
    """
    if has_torch_function_unary(input):
        return handle_torch_function(maxout, (input,), input, num_pieces, dim)
    if not isinstance(input, Tensor):
        raise TypeError(f"maxout(): argument 'input' must be Tensor, not {type(input).__name__}")
    num_pieces = integer("maxout", "num_pieces", num_pieces)
    if not accepts(input):
        raise NotImplementedError(refusal("maxout", input))
    shape = tuple(input.shape)
    if not shape:
        raise ValueError(
            "maxout(): expected channels to choose from, got a tensor of no dimensions; unsqueeze it first"
        )
    if not -len(shape) <= dim < len(shape):
        raise IndexError(
            f"maxout(): dim {dim} is out of range for an input of shape {shape}; "
            f"it lies between {-len(shape)} and {len(shape) - 1}"
        )
    check_whole("maxout", input, dim)
    if num_pieces < 1:
        raise ValueError(
            f"maxout(): num_pieces must be at least 1, got {num_pieces} (input of shape {shape}, dim {dim})"
        )
    dim %= len(shape)
    if shape[dim] % num_pieces:
        raise ValueError(
            f"maxout(): the {shape[dim]} channels in dim {dim} of an input of shape {shape} do not form groups of "
            f"num_pieces {num_pieces}; give {num_pieces} times as many channels as the output is to have"
        )
    return autograd.call(input, num_pieces, dim)
