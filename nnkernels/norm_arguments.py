"""The checks of layer and rms norm's arguments, and operands in the shape and type that they need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .arguments import accepts, integer, number, refusal
from .broadcast import spread
from .contracts.normalization import summed_dtype


class ShapeError(ValueError, RuntimeError):
    """Torch's normalisations raise RuntimeError for wrong shapes."""


def check_given(name: str, argument: str, other: Tensor) -> None:
    if not isinstance(other, Tensor):
        raise TypeError(f"{name}(): argument {argument!r} must be Tensor, not {type(other).__name__}")


def addend(name: str, residual: Tensor, x: Tensor) -> Tensor:
    """The residual with the shape of `x`: itself, whatever its type, if it has that."""
    check_given(name, "residual", residual)
    if residual.shape == x.shape:
        return residual
    return broadcast(name, residual, x, dtype=summed_dtype(x, residual))


class Over(NamedTuple):
    """What is normalised together: so many last dimensions, or dimension `dim`, which is not the last one."""

    dims: int
    dim: int | None = None


def check(
    name: str,
    given: dict[str, Tensor | None],
    normalized_shape: int | Sequence[int],
    eps: float | None,
    dim: int | None = None,
) -> Over:
    """What is normalised together, if the arguments fit."""
    x = given["input"]
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}(): argument 'input' must be Tensor, not {type(x).__name__}")
    for argument, tensor in given.items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}(): argument {argument!r} must be Tensor, not {type(tensor).__name__}")
        if not accepts(tensor):
            raise NotImplementedError(refusal(name, tensor, argument))
        if tensor.device != x.device:
            raise ValueError(f"{name}(): {argument} is on {tensor.device}, the input on {x.device}")
    shape = list(normalized_shape) if isinstance(normalized_shape, Iterable) else [normalized_shape]
    shape = [integer(name, "normalized_shape", size) for size in shape]
    if not shape:
        raise ShapeError(
            f"{name}(): expected normalized_shape to be at least 1-dimensional, i.e., containing at least one element, "
            f"but got normalized_shape = {shape}"
        )
    if dim is not None:
        of_input = _dimension(name, x, dim)
        if shape != [x.shape[of_input]]:
            raise ShapeError(
                f"{name}(): given dim={dim}, normalized_shape must be the one size of that dimension, "
                f"{x.shape[of_input]} in an input of size {list(x.shape)}, but got {shape}"
            )
        dim = None if of_input == x.dim() - 1 else of_input
    elif list(x.shape[-len(shape) :]) != shape:
        wanted = ", ".join(map(str, ["*", *shape]))
        raise ShapeError(
            f"{name}(): given normalized_shape={shape}, expected input with shape [{wanted}], but got input of size "
            f"{list(x.shape)}"
        )
    for argument in ("weight", "bias"):
        parameter = given.get(argument)
        if parameter is not None and list(parameter.shape) != shape:
            raise ShapeError(
                f"{name}(): expected {argument} to be of same shape as normalized_shape, but got {argument} of shape "
                f"{list(parameter.shape)} and normalized_shape = {shape}"
            )
    if eps is not None and not number(name, "eps", eps) >= 0:
        raise ValueError(f"{name}(): eps must be a number of at least 0, got {eps}")
    return Over(len(shape), dim)


def _dimension(name: str, x: Tensor, dim: int) -> int:
    """`dim` counted from the first dimension."""
    dim, dims = integer(name, "dim", dim), x.dim()
    if not -dims <= dim < dims:
        raise IndexError(f"{name}(): dim {dim} is out of range for an input of shape {tuple(x.shape)}")
    return dim % dims


def broadcast(
    name: str, other: Tensor, x: Tensor, argument: str = "residual", dtype: torch.dtype | None = None
) -> Tensor:
    """The residual or gate with the shape of `x`, and the type `dtype` or that of `x`."""
    dtype = dtype or x.dtype
    if other.dtype == dtype and other.shape == x.shape:
        return other
    try:
        return spread(other, x, dtype)
    except RuntimeError:
        raise ShapeError(
            f"{name}(): a {argument} of shape {tuple(other.shape)} does not broadcast to the input's {tuple(x.shape)}"
        ) from None


def result_type(name: str, of: torch.dtype, dtype: torch.dtype | None) -> torch.dtype:
    """The result's type, where a tensor of the type `of` is normalised."""
    if dtype is None or dtype == of:
        return of
    if not isinstance(dtype, torch.dtype) or {of, dtype} not in _PAIRS:
        raise TypeError(f"{name}(): dtype must be the input's, or float32 beside 16 bits; got {dtype} for {of}")
    return dtype


_PAIRS = ({torch.float32, torch.bfloat16}, {torch.float32, torch.float16})
