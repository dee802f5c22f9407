"""Whether an adapter pays: its forward against the class's own, forward and backward, side by side on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._pytree import tree_leaves, tree_map

from .. import _torch
from ..benchmark import best_of_asking, best_of_rounds
from ..hooks import is_plain
from .adapting import Adapted, Call, adapted_class, find, is_adapted, own_class
from .step import Outline, copied, filled, forked, gradients_of, is_of_tensors, put_back

SIZES = {"cpu": 2**19, "cuda": 2**24}
"""Elements of the tensors on which a kind is timed if no example says how many there are."""

_TRIALS, _DOUBTED, _ROUNDS = 3, 11, 2
"""How often the two sides are compared, how often where the first comparisons differ, in how many rounds each time."""

_PAYS = 1.02
"""How many times as fast it has to be: less is noise."""

_NO_LONGER = 0.95
"""As much of the host's time it may take, since to be called at all costs it some more."""


@dataclass
class Kind:
    """Modules of one class and one configuration that have the same adapter."""

    shown: str
    adapter: type[Adapted] | None
    why: str
    names: list[str] = field(default_factory=list)
    modules: list[Any] = field(default_factory=list)
    leaves_small: bool = False

    def takes(self) -> list[Module]:
        """The modules whose calls the adapter replaces."""
        if self.why:
            return []
        return [inside for module in self.modules for inside in self._asked(module, "takes")]

    def probes(self, module: Any) -> list[Module]:
        """What has to be seen of one of the modules, of which the first is timed for all."""
        return [] if self.why else self._asked(module, "probes")

    def depth(self) -> int:
        """How many modules are around the outermost."""
        return min(name.count(".") + bool(name) for name in self.names)

    def without(self, taken: set[int]) -> bool:
        """Forgets modules that others take; whether any are left."""
        kept = [pair for pair in zip(self.names, self.modules, strict=True) if id(pair[1]) not in taken]
        self.names, self.modules = [name for name, _ in kept], [module for _, module in kept]
        return bool(kept)

    def _asked(self, module: Any, what: str) -> list[Module]:
        with adapted((self.adapter, [module], False)):  # type: ignore[arg-type]
            return getattr(module, what)()


def kinds(model: Module) -> list[Kind]:
    """The modules that have an adapter, or for which somebody might expect one, by kind."""
    found: dict[tuple[str, str, Any], Kind] = {}
    prepared = {id(inside) for module in model.modules() if _is_prepared(module) for inside in module.modules()}
    for name, module in model.named_modules():
        adapter, why = find(module)
        if adapter is None and not why:
            continue
        if adapter is not None:
            examined = _examined(adapter, module, id(module) in prepared)
            if examined is None:
                continue
            shown, why = examined
        else:
            shown = type(module).__name__
        kind = found.setdefault((shown, why, adapter), Kind(shown, adapter, why))
        kind.names.append(name)
        kind.modules.append(module)
    return list(found.values())


def _is_prepared(module: Module) -> bool:
    """Whether torch.ao is to quantise what is inside: it has a `qconfig`, or is a graph that torch.ao has prepared."""
    if isinstance(module, torch.fx.GraphModule) and "_observed_graph_module_attrs" in module.meta:
        return True
    return "qconfig" in module.__dict__


def _examined(adapter: type[Adapted], module: Module, prepared: bool) -> tuple[str, str] | None:
    """How a module is shown, and why it has to be left."""
    if is_adapted(module):
        return None
    if "forward" in module.__dict__:
        return type(module).__name__, "its forward was set on the instance"
    if prepared:
        return type(module).__name__, "it is to be quantised by tools that compare classes exactly"
    with adapted((adapter, [module], False)):
        why = module.examine()  # type: ignore[operator]
        return None if why is None else (module.shown(), why)  # type: ignore[operator]


class adapted:
    """While it is entered, the modules of each kind have its adapter; it can be entered again."""

    def __init__(self, *kinds: tuple[type[Adapted], list[Module], bool]) -> None:
        self.changes = [
            (module, type(module), adapted_class(adapter, own_class(module), leaves_small))
            for adapter, modules, leaves_small in kinds
            for module in modules
        ]

    def __enter__(self) -> None:
        for module, _, after in self.changes:
            module.__class__ = after

    def __exit__(self, *_: object) -> None:
        for module, before, _ in self.changes:
            module.__class__ = before


class Trial:
    """A kind's two forwards, of its first module, that can be compiled and timed.

    Args:
        kind: whose first module is timed.
        model: whose parameters tell where a module without any computes.
        seen: what the modules that an adapter asks for are called with in the model, outlined; without it, samples
            serve.
        queued: whether the GPU's own time counts, since the host is ahead of it.
        records: whether autograd does, in the step.
    """

    def __init__(self, kind: Kind, model: Module, seen: dict[int, Call] | None, queued: bool, records: bool) -> None:
        self.kind, self.model, self.seen, self.queued, self.records = kind, model, seen, queued, records

    def compile(self) -> None:
        """Runs the adapter's forward and backward, where kernels are compiled and not launched.

        Of every module that is called with other shapes than those before it, since the whole step will call them all.
        """
        if self._place()[0].type != "cuda" or self._refusal():
            return
        met = set()
        for module in self.kind.modules:
            calls = self._calls(module)
            key = tuple(map(_outline, tree_leaves(calls)))
            if key in met or None in (calls or []):
                continue
            met.add(key)
            with (
                suppress(Exception),  # judging meets it again, and says what it is
                self._entered(module) as made,
                torch.autograd.set_multithreading_enabled(False),  # which torch.inference_mode has changed
            ):
                self._sides(module, made)[0]()
        with suppress(Exception), self._in_evaluation() as made:
            self._module.ours(*made)

    def judge(self) -> tuple[bool, str, float | None]:
        """Whether a kind pays, what says so, and how many times as fast it is."""
        if why := self._refusal():
            return False, why, None
        try:
            with self._entered(self._module) as calls:
                if calls is None:
                    return False, "not timed: only an example tells what it is called with", None
                return self._judged(calls)
        except Exception as error:  # whatever a configuration does to a kernel
            return False, f"not timed: {(str(error) or type(error).__name__).splitlines()[0]}", None

    def keeps_the_host(self) -> bool:
        """Whether the host takes longer to ask a GPU for ours than for the class's own forward, without gradients.

        Not asked of calls that change what they are given, of which each would be another.
        """
        seen = [call for call in self._calls(self._module) or [] if call is not None]
        if self._place()[0].type != "cuda" or not all(map(is_of_tensors, seen)):
            return False
        try:
            with self._in_evaluation() as calls:
                ours, theirs = best_of_asking([lambda: self._module.ours(*calls), lambda: self._module.theirs(*calls)])
                return ours > _NO_LONGER * theirs
        except Exception:  # such as that of a kind which only training knows
            return False

    @property
    def _module(self) -> Any:
        return self.kind.modules[0]

    def _calls(self, module: Any) -> list[Call | None] | None:
        """What is asked for, outlined; None where samples serve."""
        return None if self.seen is None else [self.seen.get(id(probe)) for probe in self.kind.probes(module)]

    def _refusal(self) -> str:
        if None in (self._calls(self._module) or []):
            return "the example does not call it"
        if self.kind.adapter.calls_inside and not is_plain_inside(self._module):  # type: ignore[union-attr]
            return "not timed: modules inside have hooks, which timing would call"
        device = self._place()[0].type
        return "" if device in SIZES else f"not timed on {device}"

    def _place(self) -> tuple[torch.device, torch.dtype]:
        """Where, and in what type, the first of the tensors is; autocast computes in a type of its own."""
        module = self._module
        owned = chain(module.parameters(), module.buffers(), self.model.parameters())
        candidates = chain(tree_leaves(self._calls(module)), owned)
        tensors = (one for one in candidates if isinstance(one, (Outline, Tensor)) and one.dtype.is_floating_point)
        found = next(tensors, torch.empty(0))
        return found.device, _torch.computed_in(found.device.type, found.dtype)

    @contextmanager
    def _entered(self, module: Any) -> Iterator[Any]:
        """With the adapter and the step's modes, and all put back afterwards; gives the calls."""
        device, dtype = self._place()
        inference = any(one.is_inference() for one in (*module.parameters(), *module.buffers()))
        with (
            torch.inference_mode(inference),
            torch.set_grad_enabled(self.records and not inference),
            put_back([module]),
            forked(device),
            adapted((self.kind.adapter, [module], False)),  # type: ignore[arg-type]
        ):
            seen = self._calls(module)
            yield module.samples(SIZES[device.type], device, dtype) if not seen else [*map(filled, seen)]  # type: ignore[arg-type]

    @contextmanager
    def _in_evaluation(self) -> Iterator[Any]:
        """The same of the first module in evaluation, where nothing is recorded."""
        modes = [(one, one.training) for one in self._module.modules()]
        try:
            for one, _ in modes:
                one.training = False
            with self._entered(self._module) as calls, torch.no_grad():
                yield calls
        finally:
            for one, mode in modes:
                one.training = mode

    def _judged(self, calls: list[Call]) -> tuple[bool, str, float | None]:
        device, sides = self._place()[0].type, self._sides(self._module, calls)
        most = _DOUBTED if self.seen is None else _TRIALS  # with an example the whole step is timed as well
        trials: list[list[float]] = []
        wins = 0
        while len(trials) < _TRIALS or (len(trials) < most and 0 < wins < len(trials)):
            trials.append(best_of_rounds(sides, _ROUNDS, device, self.queued))
            wins += trials[-1][1] / trials[-1][0] >= _PAYS
        ours, theirs = (min(trial[at] for trial in trials) for at in range(2))
        gain, agreed = theirs / ours, 2 * wins > len(trials)
        doubt = f", but only in {wins} of {len(trials)} trials" if gain >= _PAYS and not agreed else ""
        types = {str(leaf.dtype)[6:] for leaf in _numbers(calls)} or {"no tensor"}
        told = f"{gain:.2f} x as fast on {device} in {' and '.join(sorted(types))}{doubt}"
        return gain >= _PAYS and agreed, told, gain

    def _sides(self, module: Any, calls: list[Call]) -> list[Callable[[], object]]:
        """Ours and theirs, forward and backward."""
        wanted = [one for one in (*_numbers(calls), *module.parameters()) if one.requires_grad]
        wanted = wanted if module.training and torch.is_grad_enabled() else []
        # What writes in place is given copies, since it may not write into a leaf.
        writes = any(getattr(one, "inplace", False) for one in module.modules())

        def side(run: Any) -> Callable[[], object]:
            def call() -> Any:
                torch.clear_autocast_cache()  # a step casts each weight once, however often it is repeated here
                return run(*_fresh(calls, writes))

            return gradients_of(call, wanted)

        return [side(module.ours), side(module.theirs)]


def _outline(leaf: Any) -> Any:
    """What two calls have alike if the same kernels serve them; of masks and indices how they lie."""
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype
    return leaf if is_of_tensors(Call((leaf,), {})) else type(leaf)


def _numbers(calls: list[Call]) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(calls) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _fresh(calls: list[Call], writes: bool) -> list[Call]:
    """The calls for one run: with copies of what a run may change, such as a cache of keys and values."""

    def fresh(given: Any) -> Any:
        if isinstance(given, Tensor):
            return given.clone() if writes and given.requires_grad else given
        return copied(given)

    return tree_map(fresh, calls)


def is_plain_inside(module: Module) -> bool:
    """Whether nobody's hooks are called if the module's forward is."""
    return all(is_plain(inner) for inner in module.modules() if inner is not module)
