"""Which arguments are computed with here, and what is said of the others, many of which torch's own functions take."""

from __future__ import annotations

import numbers
import operator
from typing import Any

import torch
from torch import Tensor

from . import _torch

SUPPORTED_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def accepts(x: Tensor) -> bool:
    """Whether kernels and references take tensors of this type and layout; jagged ones are a subclass, made of such."""
    return x.dtype in SUPPORTED_DTYPES and ((x.layout == torch.strided and not x.is_nested) or x.layout == torch.jagged)


def refusal(caller: str, x: Tensor, name: str = "input", dtype: torch.dtype | None = None) -> str:
    """What `caller` says of its argument `name`, which is not accepted, as it is or in `dtype`."""
    dtype = dtype or x.dtype
    if dtype not in SUPPORTED_DTYPES:
        way = "convert it to float64, float32, bfloat16 or float16"
        return f"{caller}(): {dtype} is not supported ({name} of shape {tuple(x.shape)}); {way}"
    if x.is_nested:
        return f"{caller}(): nested tensors are not supported ({name}); use layout=torch.jagged, or .to_padded_tensor()"
    return f"{caller}(): layout {x.layout} is not supported ({name} of shape {tuple(x.shape)}); use .to_dense()"


def number(caller: str, name: str, value: Any) -> float:
    """The argument `name` of `caller`, a constant: a number, or a tensor of no dimensions, as torch takes them.

    Raises:
        TypeError: it is no number, or a tensor that requires a gradient, which a constant would not get.
    """
    if isinstance(value, Tensor):
        if value.requires_grad:
            raise TypeError(
                f"{caller}(): {name} is a tensor of shape {tuple(value.shape)} that requires a gradient, which a "
                f"constant does not get; give a number, or {name}.detach()"
            )
        if value.dim() == 0 and not value.is_complex():
            return float(value)
    elif isinstance(value, (numbers.Real, torch.SymInt, torch.SymFloat)):
        return float(value)
    shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f": {value!r}"
    raise TypeError(f"{caller}(): {name} must be a number, got {type(value).__name__}{shape}")


def integer(caller: str, name: str, value: Any) -> int:
    """The argument `name` of `caller`, a whole number, of numpy's or a tensor of one as well.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, (int, torch.SymInt)):
        return value  # type: ignore[return-value]
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{caller}(): {name} must be an int, got {type(value).__name__}: {value!r}") from None


def check_whole(caller: str, x: Tensor, dim: int) -> None:
    """Raises what `caller` says of a jagged `x` that has no one size along `dim`, or is cut between its rows there."""
    if x.layout == torch.jagged and dim % x.dim() in (0, _torch.ragged_dim(x)):
        raise NotImplementedError(
            f"{caller}(): dim {dim} of a jagged tensor of shape {tuple(x.shape)} is its batch or differs from row to "
            "row; choose another, or use .to_padded_tensor()"
        )
