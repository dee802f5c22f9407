"""Calls on jagged nested tensors, whose rows of different lengths lie side by side in one plain tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import _torch
from .context import is_traced


def serves(x: Tensor) -> bool:
    """Whether `x` is one, in eager mode and under no transform."""
    return x.layout == torch.jagged and not is_traced()


def together(function: Callable[[Tensor], Tensor], x: Any) -> Tensor:
    """`function`, which takes each place of a row by itself, of all rows at once."""
    return torch.nested.nested_tensor_from_jagged(
        function(x.values()), x.offsets(), x.lengths(), jagged_dim=_torch.ragged_dim(x)
    )
