"""A model's real step, on the user's example: run, compared, and seen by probes."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._pytree import tree_leaves, tree_map

from .. import _torch
from .adapting import Call

_MOST = 4.0
"""Results may differ by this many times what they differ by when rounding errors move the parameters."""

_AHEAD = 0.9
"""The GPU limits a step if the host has queued all of it within this share of the step's time."""


class Results(NamedTuple):
    outputs: list[Tensor]
    gradients: list[Tensor | None]


class Step:
    """Forward and, if the model is training and autograd records, backward.

    Args:
        model: the model.
        example: its input; a tuple of its positional, or a dictionary of its named arguments.

    The loss is what the output calls `loss`, or else the mean square of the output. Autocast is that of the caller in
    the forward pass, as usual.
    """

    def __init__(self, model: Module, example: Any) -> None:
        # What waits for gradients in the wrappers of data parallelism would wait for those of this step.
        self.model = model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model
        if isinstance(example, Mapping):
            self.call = Call((), dict(example))
        else:
            self.call = Call(tuple(example) if isinstance(example, (tuple, list)) else (example,), {})
        tensors = [t for t in (*tree_leaves(self.call), *self.model.parameters()) if isinstance(t, Tensor)]
        self.device = next((t.device for t in tensors), torch.device("cpu"))
        requires_grad = any(parameter.requires_grad for parameter in self.model.parameters())
        self.trains = self.model.training and requires_grad and torch.is_grad_enabled()

    def __call__(self) -> Results:
        torch.clear_autocast_cache()  # which lasts as long as the caller's autocast, whatever becomes of parameters
        with nullcontext() if self.trains else torch.no_grad():
            output = self.model(*self.call.args, **self.call.kwargs)
        outputs = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        if not self.trains:
            return Results(outputs, [])
        loss = getattr(output, "loss", None)
        if not isinstance(loss, Tensor):
            loss = sum((one.float().square().mean() for one in outputs if one.requires_grad), torch.tensor(0.0))
        wanted = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        with torch.autocast(self.device.type, enabled=False):
            found = torch.autograd.grad(loss, wanted, allow_unused=True)
        return Results([one.detach() for one in outputs], list(found))

    def keeps_the_gpu_busy(self) -> bool:
        """Whether the host has asked for all of a step well before the GPU is done, whose time alone then counts."""
        if self.device.type != "cuda":
            return False
        self()  # what is compiled or allocated by a first step
        torch.cuda.synchronize()
        began = time.perf_counter()
        self()
        asked = time.perf_counter() - began
        torch.cuda.synchronize()
        return asked < _AHEAD * (time.perf_counter() - began)

    def repeated(self) -> Results:
        """The step from the same random numbers each time."""
        with forked(self.device):
            torch.default_generator.manual_seed(0)
            if self.device.type == "cuda":  # torch.manual_seed would seed every GPU
                at = torch.cuda.current_device() if self.device.index is None else self.device.index
                torch.cuda.default_generators[at].manual_seed(0)
            return self()

    def nudged(self) -> Results:
        """The step after every parameter has been moved by rounding errors of the type that is computed in.

        By some, since a sum of many products averages those of its factors, and is rounded itself.
        """
        parameters = [one for one in self.model.parameters() if one.is_floating_point()]
        before = [one.detach().clone() for one in parameters]
        generator = torch.Generator(self.device).manual_seed(0)
        try:
            with torch.no_grad():
                for one in parameters:
                    dtype = _torch.computed_in(self.device.type, one.dtype)
                    noise = torch.rand(one.shape, generator=generator, device=one.device, dtype=torch.float32) - 0.5
                    one.addcmul_(
                        one, noise.to(one.dtype), value=(2 if dtype.itemsize == 2 else 16) * torch.finfo(dtype).eps
                    )
            return self.repeated()
        finally:
            with torch.no_grad():
                for one, was in zip(parameters, before, strict=True):
                    one.copy_(was)

    def seen(self, probes: list[Module], others: Sequence[Module] = ()) -> dict[int, Call]:
        """What each of the modules is called with first, floating-point tensors replaced by how they lie.

        Of the `others` only calls with nothing but tensors and constants: the cache of keys and values that a model
        hands from layer to layer is not copied for each of them.
        """
        calls: dict[int, Call] = {}
        asked = {id(probe) for probe in probes}

        def note(module: Module, args: Any, kwargs: Any) -> None:
            call = Call(args, kwargs)
            if id(module) not in calls and (id(module) in asked or is_of_tensors(call)):
                calls[id(module)] = outlined(call)

        handles = [
            module.register_forward_pre_hook(note, with_kwargs=True)
            for module in {id(module): module for module in (*probes, *others)}.values()
        ]
        try:
            self.repeated()
        finally:
            for handle in handles:
                handle.remove()
        return calls


@dataclass(frozen=True)
class Outline:
    """How a floating-point tensor lies, the strides of a permuted one included."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool

    def tensor(self) -> Tensor:
        """One of random numbers that lies so."""
        made = torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=self.device)
        return made.normal_().requires_grad_(self.requires_grad)


def outlined(call: Call) -> Call:
    """The call with outlines in place of tensors; masks, indices and flags are kept."""

    def of(given: Any) -> Any:
        if not isinstance(given, Tensor):
            return copied(given)
        if not given.is_floating_point():
            return given
        return Outline(given.shape, given.stride(), given.dtype, given.device, given.requires_grad)

    return tree_map(of, call)


def filled(call: Call) -> Call:
    """The call with tensors in place of outlines."""
    return tree_map(lambda given: given.tensor() if isinstance(given, Outline) else given, call)


def is_of_tensors(call: Call) -> bool:
    """Whether a call's arguments are tensors and what cannot be changed."""
    return all(isinstance(leaf, (Tensor, Outline, *_CONSTANTS)) for leaf in tree_leaves(call))


_CONSTANTS = (type(None), bool, int, float, str, torch.dtype, torch.device)


def copied(given: Any) -> Any:
    """A copy of what is neither a tensor nor unchangeable, if it can be copied."""
    if isinstance(given, _CONSTANTS):
        return given
    try:
        return copy.deepcopy(given)
    except Exception:  # locks, process groups and the like refuse by all kinds of exceptions
        return given


def difference(found: Results, expected: Results, nudged: Results) -> str:
    """What differs by more than rounding explains, or "".

    Args:
        found: the results to be judged.
        expected: what they should be.
        nudged: the same after every parameter has moved by a rounding error; how far that is from `expected` is what a
            model makes of rounding, which in some models is much.
    """
    for what in Results._fields:
        ours, theirs, others = (getattr(side, what) for side in (found, expected, nudged))
        kinds = [[None if one is None else (one.shape, one.dtype) for one in side] for side in (ours, theirs)]
        if kinds[0] != kinds[1]:
            return f"the {what} have other types or shapes"
        size, far, usual = _norm(theirs), _distance(ours, theirs), _distance(others, theirs)
        if size.isfinite() and not far <= _MOST * usual + 1e-12 * size:
            shares = f"{float(far / size):.1e} of their norm, where rounding explains {float(usual / size):.1e}"
            return f"the {what} differ by {shares}"
    return ""


def _norm(tensors: Sequence[Tensor | None]) -> Tensor:
    return sum((one.double().square().sum() for one in tensors if one is not None), torch.tensor(0.0)).sqrt().cpu()


def _distance(some: Sequence[Tensor | None], others: Sequence[Tensor | None]) -> Tensor:
    pairs = zip(some, others, strict=True)
    return _norm([a.double() - b.double() for a, b in pairs if a is not None and b is not None])


def forked(device: torch.device) -> Any:
    """A context that leaves the random numbers as they were."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


@contextmanager
def put_back(modules: list[Module]) -> Iterator[None]:
    """Puts buffers back as they were, such as running statistics."""
    buffers = {id(one): one for module in modules for one in module.buffers()}
    before = {at: one.detach().clone() for at, one in buffers.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for at, one in buffers.items():
                one.copy_(before[at])


def gradients_of(function: Callable[[], Any], wanted: list[Tensor]) -> Callable[[], object]:
    """Forward and, if anything wants a gradient, backward of what is differentiable in the result."""
    grads: list[Tensor] = []

    def step() -> None:
        made = [one for one in tree_leaves(function()) if isinstance(one, Tensor) and one.requires_grad]
        if made and wanted:
            if not grads:
                grads.extend(torch.ones_like(one) for one in made)
            torch.autograd.grad(made, wanted, grads, allow_unused=True)

    return step
