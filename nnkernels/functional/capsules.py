"""Capsules, vectors whose lengths say whether and directions how, as functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from ..arguments import accepts, check_whole, integer, refusal
from ..autograd import capsules as autograd
from ..autograd.shortcut import shortcut

__all__ = ["route", "squash"]


@shortcut
def squash(input: Tensor, dim: int = -1) -> Tensor:
    """Vectors along `dim`, their directions kept and their lengths n made n^2 / (1 + n^2), less than 1.

    One pass each way. Backward keeps the input and nothing else. Lengths whose square overflows give NaN.

    Args:
        input: `(*)`, in any layout; float64, float32, bfloat16 or float16.
        dim: the dimension of the vectors' numbers; negative ones count from the last.

    Returns:
        A tensor of the shape and type of `input` that lies in memory as it does.

    Raises:
        IndexError: there is no dimension `dim`.
        TypeError: the input is no tensor.
        NotImplementedError: the type is not one of the four.
        RuntimeError: the backend chosen by name cannot serve the input.

    Source: Sabour, Frosst & Hinton 2017, Dynamic Routing Between Capsules.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.squash(torch.tensor([3.0, 4.0])) * 26
        tensor([15., 20.])
    """
    if has_torch_function_unary(input):
        return handle_torch_function(squash, (input,), input, dim)
    _check("squash", input, "input")
    dim = integer("squash", "dim", dim)
    if not -input.dim() <= dim < input.dim():
        raise IndexError(f"squash(): dim {dim} is out of range for an input of shape {tuple(input.shape)}")
    check_whole("squash", input, dim)
    return autograd.squash(input, dim % input.dim())


@shortcut
def route(votes: Tensor, rounds: int = 3) -> Tensor:
    """Routing by agreement: each capsule below shares its votes out to those above whose other voters say the same.

    A round gives share[i, a] = softmax over a of votes[i, a] . (the capsules above, summed over the rounds before), and
    capsules[a] = squash(sum over i of share[i, a] votes[i, a]). All rounds are one pass, backward is another. As in the
    paper, gradients pass by the shares, so that only the last round has one. Backward keeps the votes, of which only
    a second derivative has need, and the last round's shares and sums.

    Args:
        votes: `(batch, below, above, size)`, of each capsule below for each above, in any layout; float64, float32,
            bfloat16 or float16.
        rounds: how many, at least 1; with 1, everyone above gets an equal share.

    Returns:
        The capsules above, `(batch, above, size)`, of the type of `votes`.

    Raises:
        ValueError: the votes have another number of dimensions, or there is no round.
        TypeError: the votes are no tensor, or `rounds` is no integer.
        NotImplementedError: the type is not one of the four.
        RuntimeError: the backend chosen by name cannot serve the votes.

    Source: Sabour, Frosst & Hinton 2017, Dynamic Routing Between Capsules.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.route(torch.zeros(2, 72, 10, 8)).shape
        torch.Size([2, 10, 8])
    """
    if has_torch_function_unary(votes):
        return handle_torch_function(route, (votes,), votes, rounds)
    _check("route", votes, "votes")
    if votes.layout == torch.jagged:
        raise NotImplementedError(
            f"route(): jagged tensors are not supported (votes of shape {tuple(votes.shape)}); use .to_padded_tensor()"
        )
    if votes.dim() != 4:
        raise ValueError(f"route(): votes have the shape (batch, below, above, size), got {tuple(votes.shape)}")
    rounds = integer("route", "rounds", rounds)
    if rounds < 1:
        raise ValueError(f"route(): rounds must be at least 1, got {rounds} (votes of shape {tuple(votes.shape)})")
    return autograd.route(votes, rounds)


def _check(caller: str, x: Tensor, name: str) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{caller}(): argument {name!r} must be Tensor, not {type(x).__name__}")
    if not accepts(x):
        raise NotImplementedError(refusal(caller, x, name))
