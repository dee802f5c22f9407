"""Swaps the activations of an existing model for ours where that pays on this machine."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import nn
from .benchmark import best_of_rounds

_SHAPES = {"cpu": (8, 64, 32, 32), "cuda": (64, 64, 64, 64)}
"""Of the tensor on which each side is timed; its channels become those of a layer that has weights for each."""

_ROUNDS = 5
_PAYS = 1.02
"""How many times as fast a swap has to be: less is noise."""


@dataclass
class _Kind:
    """Modules of one class and one configuration."""

    shown: str
    example: torch.nn.Module
    names: list[str] = field(default_factory=list)


def optimize(model: torch.nn.Module, *, always: bool = False, verbose: bool = True) -> torch.nn.Module:
    """Swaps the torch.nn activations inside `model` for their namesakes here, where those are faster on this machine.

    Each kind of activation in the model is timed once, forward and backward, ours against torch's, on the device and in
    the type of the model's parameters; that takes some tenths of a second for each kind. Modules stay the same objects:
    parameters, buffers, hooks, names and state dicts do not change, only the class does, a subclass of the former.

    Args:
        model: the model, changed in place. A model that is itself an activation is changed as well.
        always: whether to swap without timing, for exact tails or smaller backward where the speed is the same.
        verbose: whether to print what was swapped and what was left, and why.

    Returns:
        `model`.

    Raises:
        TypeError: `model` is not a module.

    Functions that a model's `forward` calls (`torch.nn.functional.silu`) are not seen, nor are subclasses of torch's
    modules, which may do something else.

    Example:
        >>> import torch, nnkernels
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Mish(), torch.nn.Linear(8, 2))
        >>> nnkernels.optimize(model, always=True)
        swapped  1 Mish()  unconditionally  1
        Sequential(
          (0): Linear(in_features=8, out_features=8, bias=True)
          (1): Mish()
          (2): Linear(in_features=8, out_features=2, bias=True)
        )
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"optimize(): expected a torch.nn.Module, got {type(model).__name__}")
    device, dtype = _place(model)
    for kind in _kinds(model):
        ours = _namesake(kind.example)
        if ours is None:
            continue
        pays, why = (True, "unconditionally") if always else _judge(kind.example, ours, device, dtype)
        if pays:
            for name in kind.names:
                model.get_submodule(name).__class__ = ours
        if verbose:
            some = ", ".join(name or "the model" for name in kind.names[:3])
            more = f" and {len(kind.names) - 3} more" if len(kind.names) > 3 else ""
            print(f"{'swapped' if pays else 'left'} {len(kind.names):2} {kind.shown}  {why}  {some}{more}")
    return model


def _place(model: torch.nn.Module) -> tuple[torch.device, torch.dtype]:
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    return (tensors[0].device, tensors[0].dtype) if tensors else (torch.device("cpu"), torch.float32)


def _kinds(model: torch.nn.Module) -> Iterator[_Kind]:
    found: dict[str, _Kind] = {}
    for name, module in model.named_modules():
        shown = f"{type(module).__name__}({module.extra_repr()})"
        found.setdefault(f"{type(module)} {shown}", _Kind(shown, module)).names.append(name)
    yield from found.values()


def _namesake(module: torch.nn.Module) -> type[torch.nn.Module] | None:
    """Our subclass of the very class of torch that `module` is of."""
    theirs = type(module)
    ours = getattr(nn, theirs.__name__, None) if theirs.__name__ in nn.__all__ else None
    return ours if ours is not None and ours is not theirs and ours.__base__ is theirs else None


def _judge(
    module: torch.nn.Module, ours: type[torch.nn.Module], device: torch.device, dtype: torch.dtype
) -> tuple[bool, str]:
    """Whether the swap pays, and what says so."""
    if device.type not in _SHAPES:
        return False, f"not timed on {device.type}"
    theirs = copy.deepcopy(module)
    mine = copy.deepcopy(module)
    mine.__class__ = ours
    batch, channels, *rest = _SHAPES[device.type]
    channels = getattr(module, "num_features", None) or _channels(module) or channels
    shape = (batch, channels, *rest)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            x = torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
            calls = [_step(side, x) for side in (mine, theirs)]
            fast, slow = best_of_rounds(calls, _ROUNDS, device.type)
    except (RuntimeError, ValueError, IndexError, NotImplementedError) as error:
        return False, f"not timed: {str(error).splitlines()[0]}"
    return slow / fast >= _PAYS, f"{slow / fast:.2f} x torch's speed on {device.type} in {str(dtype)[6:]}"


def _channels(module: torch.nn.Module) -> int | None:
    """Of a module with a weight for each."""
    count = getattr(module, "num_parameters", 1)
    return count if count > 1 else None


def _step(module: torch.nn.Module, x: Tensor):
    """Forward and backward."""
    inplace = getattr(module, "inplace", False)
    grad = torch.ones_like(module(x.clone() if inplace else x))
    leaves = [x, *(p for p in module.parameters() if p.requires_grad)]

    def step() -> None:
        torch.autograd.grad(module(x.clone() if inplace else x), leaves, grad)

    return step
