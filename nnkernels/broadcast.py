"""How operands that broadcast become tensors of the input's shape and type."""

from __future__ import annotations

import torch
from torch import Tensor


def spread(operand: Tensor, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """`operand` with the shape of `like`, and the type `dtype` or that of `like`.

    Its gradient is added up in the wider of the two types, and only then rounded to the operand's.
    """
    wide = torch.promote_types(operand.dtype, like.dtype)
    return operand.to(wide).expand(like.shape).to(dtype or like.dtype)
