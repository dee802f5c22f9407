"""What a user of plain PyTorch would call in place of each activation: the other side of every benchmark."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .accuracy import constants_of
from .registry import Activation

_COMPOSED: dict[str, Callable[..., Tensor]] = {
    "relu_squared": lambda x: torch.relu(x).square(),
    "swish": lambda x, beta: x * torch.sigmoid(beta * x),
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "gelu_sigmoid": lambda x: x * torch.sigmoid(1.702 * x),
    "thresholded_relu": lambda x, theta: torch.nn.functional.threshold(x, theta, 0.0),
}


def peer(row: Activation) -> Callable[[Tensor], Tensor] | None:
    """Torch's namesake with the row's default constants, or the composition that stands for it; None without either."""
    function = _COMPOSED.get(row.name) or row.reference or getattr(torch.nn.functional, row.name, None)
    if function is None:
        return None
    constants = constants_of(row)[: len(row.parameters)]
    return lambda x: function(x, *constants)
