"""What a user of plain PyTorch would call in place of each activation: the other side of every benchmark."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .accuracy import constants_of
from .registry import Activation


def peer(row: Activation) -> Callable[[Tensor], Tensor] | None:
    """Torch's namesake with the row's default constants, or the composition that stands for it; None without either."""
    theirs = torch.nn.functional
    composed = partial(row.peer, theirs) if row.peer else row.reference
    function = composed or getattr(theirs, row.name, None)
    if function is None:
        return None
    constants = constants_of(row)[: len(row.parameters)]
    return lambda x: function(x, *constants)
