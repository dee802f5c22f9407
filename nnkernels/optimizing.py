"""Swaps the activations of an existing model for ours, and fuses them with the normalisation before them, where that
pays on this machine.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from math import prod

import torch

from . import nn
from .benchmark import best_of_rounds
from .functional.elementwise import variant
from .registry import Activation, catalogue

_SIZES = {"cpu": 2**19, "cuda": 2**24}
"""Elements of the tensor on which each side is timed."""

_ROUNDS = 5
_PAYS = 1.02
"""How many times as fast a swap has to be: less is noise."""


@dataclass
class _Kind:
    """Modules of one class and one configuration, or pairs of them, each in its `Sequential`."""

    shown: str
    verb: str
    swap: Callable[[torch.nn.Module], None]
    found: dict[str, torch.nn.Module] = field(default_factory=dict)


def optimize(model: torch.nn.Module, *, always: bool = False, verbose: bool = True) -> torch.nn.Module:
    """Swaps the torch.nn activations inside `model` for their namesakes here, where those are faster on this machine.

    Where a `torch.nn.Sequential` has an activation right behind a batch, group, layer or rms norm, the two become one
    pass, if that pays: the norm gets the activation, and a `torch.nn.Identity` keeps its place.

    Each kind of module in the model is timed once, forward and backward, ours against torch's, on the device and in the
    type of the model's parameters; that takes some tenths of a second for each kind. Modules stay the same objects:
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
    for kinds in (_pairs, _kinds):  # what was fused is not swapped as well
        for kind in list(kinds(model)):
            pays, why = (True, "unconditionally") if always else _judge(kind, device, dtype)
            if pays:
                for module in kind.found.values():
                    kind.swap(module)
            if verbose:
                names = [name or "the model" for name in kind.found]
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                print(
                    f"{kind.verb if pays else 'left'} {len(names):2} {kind.shown}  {why}  {', '.join(names[:3])}{more}"
                )
    return model


def _place(model: torch.nn.Module) -> tuple[torch.device, torch.dtype]:
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    return (tensors[0].device, tensors[0].dtype) if tensors else (torch.device("cpu"), torch.float32)


def _shown(module: torch.nn.Module) -> str:
    return f"{type(module).__name__}({module.extra_repr()})"


def _kinds(model: torch.nn.Module) -> Iterator[_Kind]:
    found: dict[str, _Kind] = {}
    for name, module in model.named_modules():
        ours = _subclass(module, type(module).__name__)
        if ours is not None:
            kind = found.setdefault(_shown(module), _Kind(_shown(module), "swapped", partial(_become, ours=ours)))
            kind.found[name] = module
    yield from found.values()


def _become(module: torch.nn.Module, ours: type[torch.nn.Module]) -> None:
    module.__class__ = ours


def _pairs(model: torch.nn.Module) -> Iterator[_Kind]:
    """A norm and the activation behind it, as a `Sequential` of the two that shares both with the model's."""
    found: dict[str, _Kind] = {}
    for path, sequence in model.named_modules():
        if type(sequence).forward is not torch.nn.Sequential.forward:
            continue
        children = list(sequence.named_children())
        for (name, norm), (after, act) in pairwise(children):
            if _fused(norm) is None or _row_of(act) is None or _is_hooked(norm) or _is_hooked(act):
                continue
            shown = f"{_shown(norm)} + {_shown(act)}"
            kind = found.setdefault(shown, _Kind(shown, "fused", _fuse))
            kind.found[f"{path}.{name}" if path else name] = _Pair(sequence, name, after)
    yield from found.values()


class _Pair(torch.nn.Module):
    """Two neighbours in a `Sequential`, called one after the other."""

    def __init__(self, sequence: torch.nn.Module, first: str, second: str) -> None:
        super().__init__()
        self.sequence, self.first, self.second = [sequence], first, second
        self.norm, self.act = sequence.get_submodule(first), sequence.get_submodule(second)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(x))


def _fuse(pair: torch.nn.Module) -> None:
    assert isinstance(pair, _Pair)
    norm, ours, row = pair.norm, _fused(pair.norm), _row_of(pair.act)
    assert ours is not None and row is not None
    norm.__class__ = ours
    norm.activation = row.name  # type: ignore[assignment]
    norm.constants = {name: float(getattr(pair.act, name)) for name in row.parameters}  # type: ignore[assignment]
    norm.process_group = None  # type: ignore[assignment]
    pair.act = torch.nn.Identity()
    setattr(pair.sequence[0], pair.second, pair.act)


def _fused(norm: torch.nn.Module) -> type[torch.nn.Module] | None:
    """Our class of the norm with an activation."""
    name = type(norm).__name__
    return _subclass(norm, name.replace("Norm", "NormAct")) if "Norm" in name else None


def _is_hooked(module: torch.nn.Module) -> bool:
    """Whether somebody listens to what goes in and out."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def _row_of(module: torch.nn.Module) -> Activation | None:
    """The catalogue's row of a module that is torch's own or ours."""
    name = type(module).__name__
    if type(module) not in (getattr(torch.nn, name, None), getattr(nn, name, None) if name in nn.__all__ else None):
        return None
    if isinstance(module, torch.nn.GELU):
        return variant(module.approximate)
    return next((row for row in catalogue(Activation) if row.module == name), None)


def _subclass(module: torch.nn.Module, name: str) -> type[torch.nn.Module] | None:
    """Our class called `name`, if it is a subclass of the very class of torch that `module` is of."""
    theirs, ours = type(module), getattr(nn, name) if name in nn.__all__ else None
    same = getattr(torch.nn, theirs.__name__, None) is theirs
    return ours if same and ours is not theirs else None


def _judge(kind: _Kind, device: torch.device, dtype: torch.dtype) -> tuple[bool, str]:
    """Whether the swap pays, and what says so."""
    if device.type not in _SIZES:
        return False, f"not timed on {device.type}"
    theirs, mine = (copy.deepcopy(next(iter(kind.found.values()))) for _ in range(2))
    kind.swap(mine)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            x = torch.randn(_shape(theirs, _SIZES[device.type]), device=device, dtype=dtype, requires_grad=True)
            fast, slow = best_of_rounds([_step(side, x) for side in (mine, theirs)], _ROUNDS, device.type)
    except (RuntimeError, ValueError, IndexError, NotImplementedError) as error:
        return False, f"not timed: {str(error).splitlines()[0]}"
    return slow / fast >= _PAYS, f"{slow / fast:.2f} x torch's speed on {device.type} in {str(dtype)[6:]}"


def _shape(module: torch.nn.Module, size: int) -> tuple[int, ...]:
    """Of an input that suits the module and has about `size` elements."""
    layer = module.norm if isinstance(module, _Pair) else module
    if isinstance(layer, (torch.nn.LayerNorm, torch.nn.RMSNorm)):
        whole = tuple(layer.normalized_shape)
        return (max(1, size // prod(whole)), *whole)
    counts = (getattr(layer, name, 0) for name in ("num_features", "num_channels", "num_parameters"))
    channels = next((count for count in counts if count > 1), 64)
    pixels = {torch.nn.BatchNorm1d: (256,), torch.nn.BatchNorm3d: (4, 8, 8)}
    inside = next((shape for base, shape in pixels.items() if isinstance(layer, base)), (16, 16))
    return (max(2, size // (channels * prod(inside))), channels, *inside)


def _step(module: torch.nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """Forward and backward."""
    inplace = getattr(module, "inplace", False)
    grad = torch.ones_like(module(x.clone() if inplace else x))
    leaves = [x, *(p for p in module.parameters() if p.requires_grad)]

    def step() -> None:
        torch.autograd.grad(module(x.clone() if inplace else x), leaves, grad)

    return step
