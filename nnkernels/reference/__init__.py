"""The family in plain torch operations: the truth that the kernels are held against, and the route for every tensor,
transform and compiler that custom kernels cannot follow.

Each class is named after its row in the catalogue. `value`, `d1` and `d2` take a tensor of the compute type and the two
constants, and are differentiable to any order. They are written so that tails keep their digits:

- exp only ever sees a negative argument, written with `where` because the derivative of `abs` at 0 is 0;
- exp(z) enters a product as two factors exp(z/2), since exp(z) itself may be subnormal and short of digits;
- a rounded product z = b x is followed by its rounding error, because exp magnifies a relative error of z by |z|.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from ..registry import elementwise
from . import derived, exponential, piecewise, smooth  # noqa: F401  (whose classes are found below)
from .base import Formula, compute_dtype


def _leaves(base: type[Formula]) -> list[type[Formula]]:
    return [leaf for child in base.__subclasses__() for leaf in [child, *_leaves(child)]]


FORMULAS: dict[str, Any] = {leaf.__name__: leaf for leaf in _leaves(Formula) if not leaf.__name__.startswith("_")}


def evaluate(name: str, order: str, x: Tensor, a: float, b: float) -> Tensor:
    """`order` ("value", "d1" or "d2") of the activation called `name`, in `x`'s type; differentiable to any order."""
    return getattr(FORMULAS[name], order)(x.to(compute_dtype(x)), *rounded(x, a, b)).to(x.dtype)


def times(grad: Tensor, name: str, order: str, x: Tensor, a: float, b: float, also: Tensor | float = 1.0) -> Tensor:
    """grad also f(x), f being `order` of the activation, multiplied before the result is rounded to `x`'s type."""
    wide = compute_dtype(x)
    if isinstance(also, Tensor):
        also = also.to(wide)
    slope = getattr(FORMULAS[name], order)(x.to(wide), *rounded(x, a, b))
    product = grad.to(wide) * also * slope
    if elementwise(name).masks:
        product = torch.where(slope == 0, 0.0, product)
    return product.to(x.dtype)


def rounded(x: Tensor, a: float, b: float) -> tuple[float, float]:
    """The constants as PyTorch takes them: in float32 unless the tensor is float64. A compiler does so itself."""
    if x.dtype == torch.float64 or torch.compiler.is_compiling():
        return a, b
    return ctypes.c_float(a).value, ctypes.c_float(b).value
