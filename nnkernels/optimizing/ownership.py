"""Who holds the modules of a model, and whether anybody but their containers can reach them.

A norm that gets the activation behind it changes for all who call it. So both have to lie in one container that calls
them one after the other, nothing else in the process may hold them, and whatever holds the container, up to the top,
only calls it as a whole. What cannot be shown is taken for the contrary.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from types import CoroutineType, FrameType, GeneratorType
from typing import Any

import torch
from torch.nn import Module, ModuleDict, ModuleList

from .source_reading import is_plain_call, is_sequential, reaches_in, takes_apart

_PASSING = (FrameType, GeneratorType, CoroutineType)
"""They hold what a function's variables hold, until it returns."""


class Owners:
    """Finds out about modules inside `model`; looks once through everything that the process holds.

    Args:
        model: the model.
        paths: the names of the modules that will be asked about.
    """

    def __init__(self, model: Module, paths: Iterable[str]) -> None:
        chains = {".".join(parts[:i]) for parts in (path.split(".") for path in paths) for i in range(len(parts) + 1)}
        self._holders = _holders([at(model, chain) for chain in chains])
        self.model = model  # now that it does not count as a holder
        self._owners = {id(module._modules): module for module in model.modules()}
        self._below = {id(module) for module in self._owners.values() if module is not model}
        self._why: dict[int, str] = {}
        self._idle: dict[int, bool] = {}

    def why_not(self, container: Module, *names: str) -> str:
        """Why neighbours in a container may be reached by others than its own forward, or "" if they are not."""
        if not is_sequential(container):
            return f"{_named(container)} does more than call one module after the other, or has hooks"
        if why := reaches_in(container):
            return why
        for name in names:
            module = container._modules[name]
            assert module is not None
            if not is_plain_call(module):
                return f"{_named(module)} has hooks or a forward of its own"
            if why := self._held_elsewhere(module):
                return why
        return self._inside(container)

    def _held_elsewhere(self, module: Module) -> str:
        """Anything but one place in one module."""
        found, rest = self._split(module)
        if len(found) > 1:
            return f"{_named(module)} is used {len(found)} times"
        if rest and not any(_is_wrapper(owner) for owner, _ in found):
            return f"{_named(module)} is held by {_described(rest[0])} too"
        return "" if found else f"{_named(module)} has an owner that is not known"

    def _inside(self, module: Module) -> str:
        """Why something may reach into `module`, or "" if it is only called as a whole."""
        if (known := self._why.get(id(module))) is not None:
            return known
        self._why[id(module)] = ""  # what holds itself is asked once
        why = self._held_elsewhere(module) if id(module) in self._below else ""
        for owner, name in self._split(module)[0]:
            why = why or self._through(owner, name)
        self._why[id(module)] = why
        return why

    def _through(self, owner: Module, name: str) -> str:
        """Why something may reach into what `owner` calls `name`."""
        if _is_wrapper(owner):
            return self._inside(owner)
        listed = _is_list(owner)
        if not (listed or is_sequential(owner)):
            return takes_apart(owner, name) or self._inside(owner)
        # Who holds a list or a sequence may call its elements.
        found = self._split(owner)[0]
        why = self._held_elsewhere(owner) if id(owner) in self._below else ""
        if listed and not found:
            return f"{_named(owner)} has an owner that is not known"
        for above, its_name in found:
            if not listed and (_is_list(above) or is_sequential(above) or _is_wrapper(above)):
                why = why or self._through(above, its_name)
            else:
                why = why or takes_apart(above, its_name, elements=True) or self._inside(above)
        return why

    def _split(self, module: Module) -> tuple[list[tuple[Module, str]], list[Any]]:
        """The modules that hold a module, with its names there, and whatever else does."""
        if id(module) not in self._holders:  # above the model
            self._holders |= _holders([module])
        found: list[tuple[Module, str]] = []
        rest: list[Any] = []
        for holder in self._holders[id(module)]:
            if holder is self._owners:
                continue
            owner = self._owner(holder) if isinstance(holder, dict) else None
            if owner is not None:
                found += [(owner, name) for name, child in owner._modules.items() if child is module]
            elif not self._is_idle(holder):
                rest.append(holder)
        return found, rest

    def _owner(self, holder: dict) -> Module | None:
        """The module whose table of modules this is."""
        if id(holder) not in self._owners:
            for one in gc.get_referrers(holder):
                beyond = gc.get_referrers(one) if isinstance(one, dict) and one.get("_modules") is holder else [one]
                for other in beyond:
                    if isinstance(other, Module) and other._modules is holder:
                        self._owners[id(holder)] = other
        return self._owners.get(id(holder))

    def _is_idle(self, holder: Any) -> bool:
        """Whether nothing holds the holder: a variable of a function that is running, such as a list of layers."""
        if id(holder) not in self._idle:
            plain = isinstance(holder, (list, tuple, dict, set))
            others = gc.get_referrers(holder) if plain else []
            mine = {id(one) for one in self._holders.values()}
            self._idle[id(holder)] = plain and all(isinstance(o, _PASSING) or id(o) in mine for o in others)
        return self._idle[id(holder)]


def _holders(modules: list[Module]) -> dict[int, list[Any]]:
    """Whatever in the process refers to each of the modules, once; variables of running functions do not count."""
    found: dict[int, list[Any]] = {id(module): [] for module in modules}
    for holder in gc.get_referrers(*modules):
        if holder is modules or isinstance(holder, _PASSING):
            continue
        for key in {id(one) for one in gc.get_referents(holder)} & found.keys():
            found[key].append(holder)
    return found


def at(model: Module, path: str) -> Module:
    """The module of that name, whatever attributes of that name the modules have."""
    for name in path.split(".") if path else ():
        model = model._modules[name]  # type: ignore[assignment]
    return model


def _is_list(module: Module) -> bool:
    """Whether it only holds modules, for others to call."""
    return isinstance(module, (ModuleList, ModuleDict)) and type(module).forward is Module.forward


def _is_wrapper(module: Module) -> bool:
    """Whether it calls the module inside as a whole; a compiled module's class is not imported for nothing."""
    compiled = (type(module).__module__, type(module).__name__) == ("torch._dynamo.eval_frame", "OptimizedModule")
    return compiled or isinstance(module, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel))


def _named(module: Module) -> str:
    return type(module).__name__


def _described(holder: Any) -> str:
    if isinstance(holder, dict) and "__name__" in holder:
        return f"a variable of {holder['__name__']}"
    return f"a {type(holder).__name__}"
