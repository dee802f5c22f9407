"""Which modules `optimize` knows, what each becomes, and a fresh one of the same kind to be timed.

A recogniser is a function that is given a module, or two neighbours in a container, and answers with a `Swap` if it
knows them. Another library's classes are one more function in `SINGLE` or `NEIGHBOURS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.nn import Module

from .. import nn
from ..functional.elementwise import variant
from ..fusing import inner
from ..registry import Activation, catalogue

_RANDOM = (torch.nn.Dropout, torch.nn.RReLU)


class Edits:
    """Changes of modules which can be undone."""

    def __init__(self) -> None:
        self._back: list[Callable[[], None]] = []

    def become(self, module: Module, kind: type[Module], **attributes: Any) -> None:
        """Gives the module another class and attributes."""
        self._back.append(partial(_restore, module, type(module), dict(module.__dict__)))
        module.__class__ = kind
        module.__dict__.update(attributes)

    def put(self, container: Module, name: str, module: Module) -> None:
        """Puts a module where another one was."""
        self._back.append(partial(container._modules.__setitem__, name, container._modules[name]))
        container._modules[name] = module

    def undo(self) -> None:
        for back in reversed(self._back):
            back()


def _restore(module: Module, kind: type[Module], state: dict[str, Any]) -> None:
    module.__class__ = kind
    for name in module.__dict__.keys() - state.keys():
        del module.__dict__[name]
    module.__dict__.update(state)


class Swap(NamedTuple):
    """What becomes of one module, or of two neighbours.

    Attributes:
        shown: the kind; modules that are shown alike are timed once.
        verb: what happens to them, in the past tense.
        change: makes `Edits` of the modules, and gives back what takes their places.
        draws: whether random numbers are drawn, of which a swap makes others.
        left: why there is nothing to swap.
    """

    shown: str
    verb: str
    change: Callable[..., tuple[Module, ...]]
    draws: bool = False
    left: str = ""


def shown(module: Module) -> str:
    return f"{type(module).__name__}({module.extra_repr()})"


def activation(module: Module) -> Swap | None:
    """An activation of torch becomes its namesake here."""
    ours = _namesake(module, type(module).__name__)
    if ours is None:
        return None
    left = "it drops nothing" if isinstance(module, torch.nn.Dropout) and module.p == 0 else ""
    return Swap(shown(module), "swapped", partial(_become, ours), isinstance(module, _RANDOM), left)


def norm_and_activation(norm: Module, act: Module) -> Swap | None:
    """A norm of torch gets the activation behind it, which makes way for an `Identity`."""
    name, row = type(norm).__name__, _row_of(act)
    ours = _namesake(norm, name.replace("Norm", "NormAct")) if "Norm" in name else None
    if ours is None or row is None or not _normalizes(norm) or getattr(act, "saving", None) is not None:
        return None
    given = {name: getattr(act, name) for name in row.parameters}
    if not all(isinstance(value, (int, float)) for value in given.values()):
        return None
    constants = {name: float(value) for name, value in given.items()}
    try:
        inner("optimize", row.name, constants)
    except (TypeError, ValueError):  # torch's module takes constants of which the formula makes no sense
        return None
    # Processes of which only some have swapped would wait for each other.
    left = "to be fused before it is converted" if isinstance(norm, torch.nn.SyncBatchNorm) else ""
    return Swap(f"{shown(norm)} + {shown(act)}", "fused", partial(_fuse, ours, row.name, constants), left=left)


SINGLE: list[Callable[[Module], Swap | None]] = [activation]
NEIGHBOURS: list[Callable[[Module, Module], Swap | None]] = [norm_and_activation]


def first(recognizers: list[Callable[..., Swap | None]], *modules: Module) -> Swap | None:
    """What the first recogniser that knows the modules makes of them."""
    return next((swap for one in recognizers if (swap := one(*modules)) is not None), None)


def fresh(module: Module, device: torch.device, dtype: torch.dtype) -> Module:
    """A new module of the same class and configuration: no copy of its parameters, nobody's hooks.

    Its constructor's arguments are read from the attributes of the same names.
    """
    place = {"device": device, "dtype": dtype}
    given: dict[str, Any] = {}
    for name in inspect.signature(type(module).__init__).parameters:
        if name in place:
            given[name] = place[name]
        elif name == "bias":
            given[name] = getattr(module, "bias", None) is not None
        elif name != "self" and hasattr(module, name):
            given[name] = getattr(module, name)
    new = type(module)(**given)
    new.train(module.training)
    theirs = dict(module.named_parameters())
    for name, parameter in list(new.named_parameters()):
        if name in theirs:
            parameter.requires_grad_(theirs[name].requires_grad)
        else:
            new.register_parameter(name, None)
    return new


def _become(ours: type[Module], edits: Edits, module: Module) -> tuple[Module]:
    edits.become(module, ours)
    return (module,)


def _fuse(
    ours: type[Module], name: str, constants: dict[str, float], edits: Edits, norm: Module, act: Module
) -> tuple[Module, Module]:
    edits.become(norm, ours, activation=name, constants=dict(constants))
    return norm, torch.nn.Identity().train(act.training)


def _normalizes(norm: Module) -> bool:
    """Whether ours takes the epsilon too."""
    eps = getattr(norm, "eps", None)
    if eps is None or isinstance(norm, torch.nn.LayerNorm):
        return eps is None or eps >= 0
    return eps > 0


def _row_of(module: Module) -> Activation | None:
    """The catalogue's row of a module that is torch's own or ours."""
    name = type(module).__name__
    if type(module) not in (getattr(torch.nn, name, None), getattr(nn, name, None) if name in nn.__all__ else None):
        return None
    if isinstance(module, torch.nn.GELU):
        return variant(module.approximate) if module.approximate in ("none", "tanh") else None
    return next((row for row in catalogue(Activation) if row.module == name), None)


def _namesake(module: Module, name: str) -> type[Module] | None:
    """Our class called `name`, if the module is of the very class of torch that goes by its own class's name."""
    theirs, ours = type(module), getattr(nn, name) if name in nn.__all__ else None
    same = getattr(torch.nn, theirs.__name__, None) is theirs
    return ours if same and ours is not theirs else None
