"""Swaps the activations of an existing model for ours, and fuses them with the normalisation before them, where that
pays on this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod

import torch
from torch.nn import Module

from ..benchmark import best_of_rounds
from . import recognition
from .ownership import Owners, at
from .recognition import Edits, Swap, fresh

_SIZES = {"cpu": 2**19, "cuda": 2**24}
"""Elements of the tensor on which each side is timed."""

_TRIALS, _DOUBTED, _ROUNDS = 3, 11, 2
"""How often the two sides are compared, how often where the first comparisons differ, in how many rounds each time."""

_PAYS = 1.02
"""How many times as fast a swap has to be: less is noise."""


@dataclass(frozen=True)
class _Place:
    """Where a swap applies: the modules' names in the model and, unless it is the model itself, what holds them."""

    name: str
    modules: tuple[Module, ...]
    container: Module | None
    names: tuple[str, ...]


@dataclass
class _Kind:
    """Modules of one class and one configuration, or neighbours of two, and why they are left where that is known."""

    swap: Swap
    why: str = ""
    places: list[_Place] = field(default_factory=list)


def optimize(model: Module, *, always: bool = False, verbose: bool = True, random: bool = False) -> Module:
    """Swaps the torch.nn activations inside `model` for their namesakes here, where those are faster on this machine.

    Where a `torch.nn.Sequential` has an activation right behind a batch, group, layer or rms norm, the two become one
    pass, if that pays: the norm gets the activation, and a new `torch.nn.Identity` takes the activation's place. It is
    done only if nothing but the container's own forward can reach the two: nothing else in the process holds them but
    variables of functions that are running, they have no hooks, and the code of whatever holds the container does no
    more than call it. What cannot be shown is left, and the reason said.

    Each kind of module in the model is timed once, forward and backward, ours against torch's, on the device and in
    the type of its parameters; that takes some tenths of a second for each kind, and a swap has to pay in most of
    several trials. New modules of that kind are timed: the model's are neither called nor copied.

    What is swapped stays the same object, with its parameters, buffers, hooks, name and state dict; its class becomes
    a subclass of the former, but for batch norms: `nnkernels.nn.BatchNormAct2d` is none of torch's, whose instances
    other tools rebuild without an activation; `SyncBatchNorm.convert_sync_batchnorm` reaches it all the same.

    All is decided before anything is changed, and an exception leaves the model as it was. Processes whose batch norms
    are to be synchronised have to decide alike: there use `always=True`, and convert afterwards.

    Args:
        model: the model, changed in place. A model that is itself an activation is changed as well.
        always: whether to swap without timing, for exact tails or smaller backward where the speed is the same.
        verbose: whether to print what was swapped and what was left, and why.
        random: whether to swap `Dropout` and `RReLU` too, which then draw other numbers from the same seed.

    Returns:
        `model`.

    Raises:
        TypeError: `model` is not a module.

    Functions that a model's `forward` calls (`torch.nn.functional.silu`) are not seen, nor are subclasses of torch's
    modules, which may do something else. Code that takes a container apart after it was fused (`model.features[:5]`)
    finds norms that have their activation.

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
    if not isinstance(model, Module):
        raise TypeError(f"optimize(): expected a torch.nn.Module, got {type(model).__name__}")
    taken: set[int] = set()
    lines: list[str] = []
    chosen: list[_Kind] = []
    for found in (_neighbours, _singles):
        for kind in found(model, taken):
            pays, why = _decide(kind, model, always, random)
            if pays:
                chosen.append(kind)
                taken |= {id(module) for place in kind.places for module in place.modules}
            lines.append(_line(kind, pays, why))
    edits = Edits()
    try:
        for kind in chosen:
            for place in kind.places:
                _apply(edits, kind.swap, place)
        if verbose:
            print("\n".join(lines) or f"nothing to swap: optimize knows no module of this {type(model).__name__}")
    except BaseException:
        edits.undo()
        raise
    return model


def _neighbours(model: Module, _taken: set[int]) -> list[_Kind]:
    """A norm and the activation behind it, in each container that calls one after the other."""
    # By name: a list of modules would be one more holder of each.
    paths = {path: list(_pairs(module)) for path, module in model.named_modules()}
    paths = {path: names for path, names in paths.items() if names}
    if not paths:
        return []
    owners = Owners(model, [_joined(path, name) for path, pairs in paths.items() for pair in pairs for name in pair])
    kinds: dict[tuple[str, str], _Kind] = {}
    for path, pairs in paths.items():
        container = at(model, path)
        for names in pairs:
            modules = tuple(at(container, name) for name in names)
            swap = recognition.first(recognition.NEIGHBOURS, *modules)
            assert swap is not None
            why = swap.left or owners.why_not(container, *names)
            kind = kinds.setdefault((swap.shown, why), _Kind(swap, why))
            kind.places.append(_Place(_joined(path, names[0]), modules, container, names))
    return list(kinds.values())


def _pairs(module: Module) -> Iterator[tuple[str, str]]:
    """The names of neighbours that a recogniser knows."""
    if not isinstance(module, torch.nn.Sequential):
        return
    for (name, one), (after, other) in pairwise(module._modules.items()):
        if one is not None and other is not None and recognition.first(recognition.NEIGHBOURS, one, other):
            yield name, after


def _singles(model: Module, taken: set[int]) -> list[_Kind]:
    """Activations, but for those that are taken by a pair."""
    kinds: dict[tuple[str, str], _Kind] = {}
    for name, module in model.named_modules():
        swap = None if id(module) in taken else recognition.first(recognition.SINGLE, module)
        if swap is not None:
            why = swap.left or ("its forward was set on the instance" if "forward" in module.__dict__ else "")
            kinds.setdefault((swap.shown, why), _Kind(swap, why)).places.append(_Place(name, (module,), None, ()))
    return list(kinds.values())


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _line(kind: _Kind, pays: bool, why: str) -> str:
    names = [place.name or "the model" for place in kind.places]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    verb = kind.swap.verb if pays else "left"
    return f"{verb} {len(names):2} {kind.swap.shown}  {why}  {', '.join(names[:3])}{more}"


def _apply(edits: Edits, swap: Swap, place: _Place) -> None:
    after = swap.change(edits, *place.modules)
    for name, old, new in zip(place.names, place.modules, after, strict=False):
        if new is not old and place.container is not None:
            edits.put(place.container, name, new)


def _decide(kind: _Kind, model: Module, always: bool, random: bool) -> tuple[bool, str]:
    """Whether the kind is swapped, and why."""
    if kind.why:
        return False, kind.why
    if kind.swap.draws and not random:
        return False, "it draws random numbers: only with random=True"
    if always:
        return True, "unconditionally"
    modules = kind.places[0].modules
    device, dtype = next(
        (place for module in (*modules, model) if (place := _place(module))), (torch.device("cpu"), torch.float32)
    )
    if device.type not in _SIZES:
        return False, f"not timed on {device.type}"
    try:
        with torch.inference_mode(False), torch.enable_grad():
            return _judge(kind.swap, modules, device, dtype)
    except Exception as error:  # whatever a configuration does to a constructor or a kernel
        return False, f"not timed: {(str(error) or type(error).__name__).splitlines()[0]}"


def _place(module: Module) -> tuple[torch.device, torch.dtype] | None:
    tensors = (tensor for one in (module.parameters(), module.buffers()) for tensor in one)
    return next(((tensor.device, tensor.dtype) for tensor in tensors if tensor.is_floating_point()), None)


def _judge(swap: Swap, modules: tuple[Module, ...], device: torch.device, dtype: torch.dtype) -> tuple[bool, str]:
    """Whether the swap pays, and what says so: the best rounds do, and all trials but one agree."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        theirs = tuple(fresh(module, device, dtype) for module in modules)
        mine = swap.change(Edits(), *(fresh(module, device, dtype) for module in modules))
        x = torch.randn(_shape(theirs[0], _SIZES[device.type]), device=device, dtype=dtype, requires_grad=True)
        steps: list[Callable[[], object]] = [_step(side, x) for side in (mine, theirs)]
        trials: list[list[float]] = []
        wins = 0
        while len(trials) < _TRIALS or (len(trials) < _DOUBTED and 0 < wins < len(trials)):
            trials.append(best_of_rounds(steps, _ROUNDS, device.type))
            wins += trials[-1][1] / trials[-1][0] >= _PAYS
    fast, slow = (min(trial[side] for trial in trials) for side in range(2))
    pays, agreed = slow / fast >= _PAYS, 2 * wins > len(trials)
    doubt = f", but only in {wins} of {len(trials)} trials" if pays and not agreed else ""
    return pays and agreed, f"{slow / fast:.2f} x torch's speed on {device.type} in {str(dtype)[6:]}{doubt}"


def _shape(layer: Module, size: int) -> tuple[int, ...]:
    """Of an input that suits the module and has about `size` elements."""
    if isinstance(layer, (torch.nn.LayerNorm, torch.nn.RMSNorm)):
        whole = tuple(layer.normalized_shape)
        return (max(1, size // prod(whole)), *whole)
    counts = (getattr(layer, name, 0) for name in ("num_features", "num_channels", "num_parameters"))
    channels = next((count for count in counts if count > 1), 64)
    pixels = {torch.nn.BatchNorm1d: (256,), torch.nn.BatchNorm3d: (4, 8, 8)}
    inside = next((shape for base, shape in pixels.items() if isinstance(layer, base)), (16, 16))
    if 2 * channels * prod(inside) > size:
        inside = (1,) * len(inside)
    return (max(2, size // (channels * prod(inside))), channels, *inside)


def _step(modules: tuple[Module, ...], x: torch.Tensor) -> Callable[[], None]:
    """Forward and backward. Not by calling the modules: hooks for all modules of the process are somebody's."""
    inplace = getattr(modules[0], "inplace", False)

    def forward() -> torch.Tensor:
        y = x.clone() if inplace else x
        for module in modules:
            y = module.forward(y)
        return y

    grad = torch.ones_like(forward())
    leaves = [x, *(p for module in modules for p in module.parameters() if p.requires_grad)]

    def step() -> None:
        torch.autograd.grad(forward(), leaves, grad)

    return step
