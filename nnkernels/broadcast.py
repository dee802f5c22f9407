"""How operands that broadcast become tensors of the input's shape and type."""

from __future__ import annotations

import torch
from torch import Tensor


def spread(operand: Tensor, like: Tensor) -> Tensor:
    """`operand` with the shape and type of `like`.

    Its gradient is added up in the wider of the two types, and only then rounded to the operand's.
    """
    wide = torch.promote_types(operand.dtype, like.dtype)
    return operand.to(wide).expand(like.shape).to(like.dtype)
