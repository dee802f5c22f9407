"""Whether modules may be read in place of being called."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.parameter import Parameter


def is_plain(module: Module) -> bool:
    """Whether to call the module is to call the forward of its class: it has no hooks and no forward of its own."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or _has_any_global_hook()
    )


def multiplies(module: Module, kind: type[Module], also: tuple[type[Tensor], ...] = ()) -> bool:
    """Whether to call a module of the class `kind` is to multiply by a weight and add a bias, and nothing else.

    Both have to be plain tensors, or of the classes in `also`: others, such as quantised ones, want to see the call.
    """
    if kind is not torch.nn.Linear or not is_plain(module):
        return False
    weight, bias = map(module._parameters.get, ("weight", "bias"))
    if weight is None or weight.layout != torch.strided:
        return False
    return all(type(one) in _PLAIN or type(one) in also or one is None for one in (weight, bias))


_PLAIN = (Parameter, Tensor)
