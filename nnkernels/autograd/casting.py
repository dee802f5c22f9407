"""Operands of products in autocast's type, to which torch casts those of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from .. import _torch
from ..arguments import accepts
from . import node
from .context import is_plain_call


def casting(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function`, which is given tensors of autocast's type where that is on; the first argument says for what device.

    As by torch's own products, a parameter is cast once within an autocast, and numbers of 64 bits stay what they are.
    """

    @functools.wraps(function)
    def call(input: Any, *args: Any, **kwargs: Any) -> Tensor:
        if not isinstance(input, Tensor) or not _torch.autocasts(input.device.type):
            return function(input, *args, **kwargs)
        if has_torch_function((input, *args, *kwargs.values())):  # which `function` asks, and is called again
            return function(input, *args, **kwargs)
        narrow = torch.get_autocast_dtype(input.device.type)
        cast = functools.partial(_cast, narrow=narrow)
        given = map(cast, args)
        return function(cast(input), *given, **{name: cast(one) for name, one in kwargs.items()})

    return call


def _cast(one: Any, narrow: torch.dtype) -> Any:
    if not isinstance(one, Tensor) or not accepts(one) or one.dtype in (narrow, torch.float64):
        return one
    if node.module is None or not is_plain_call(one):  # what a transform makes of a parameter may not outlive it
        return one.to(narrow)
    return node.module.cached_cast(one, narrow)
