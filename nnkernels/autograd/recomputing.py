"""saving("recompute"): what follows an activation or norm keeps no copy of its output, but computes it again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

_MOST_STEPS = 2
"""From what is kept to what is made again: enough for a gate of an activation's output. Of blocks in a row that add
what they return to what they were given, each of which could be made of the one before, the third is kept."""


class _Made(NamedTuple):
    """How a tensor came about: the form called `name` is `again` of the inputs."""

    storage: StorageWeakRef
    version: int
    name: str
    again: Callable[..., Tensor]
    inputs: tuple[_Kept | _Again | None, ...]
    steps: int
    offset: int


class _Kept(NamedTuple):
    """A tensor as it is, and the version that it has to stay: hooks take over from autograd's own check."""

    tensor: Tensor
    version: int


class _Again(NamedTuple):
    """A view of a tensor that is not kept, but can be made again."""

    made: _Made
    shape: torch.Size
    strides: tuple[int, ...]
    offset: int


_outputs: ContextVar[tuple[dict[int, _Made], ...]] = ContextVar("outputs", default=())
"""For each `saving("recompute")` around this call the forms' outputs still in use, by their storage."""


class hooks(AbstractContextManager[None]):
    """Saved-tensor hooks for the length of a `with` statement."""

    def __enter__(self) -> None:
        _outputs.set((*_outputs.get(), {}))
        self._hooks = torch.autograd.graph.saved_tensors_hooks(_pack, _unpack)
        self._hooks.__enter__()

    def __exit__(self, *exception: Any) -> None:
        self._hooks.__exit__(*exception)
        _outputs.set(_outputs.get()[:-1])


def remember(y: Tensor, name: str, again: Callable[..., Tensor], *inputs: Tensor | None) -> None:
    """Notes that `again(*inputs)` gives `y`, which the form called `name` has just made, once more."""
    if not _outputs.get():
        return
    outputs = _outputs.get()[-1]
    for key in [key for key, made in outputs.items() if made.storage.expired()]:
        del outputs[key]
    storage = StorageWeakRef(y.untyped_storage())
    packed = tuple(None if x is None else _pack(x) for x in inputs)
    steps = 1 + max(one.made.steps if isinstance(one, _Again) else 0 for one in packed)
    if steps <= _MOST_STEPS:
        outputs[storage.cdata] = _Made(storage, y._version, name, again, packed, steps, int(y.storage_offset()))


def _pack(tensor: Tensor) -> _Kept | _Again:
    made = None
    if _outputs.get() and type(tensor) is Tensor and tensor.layout == torch.strided:
        made = _outputs.get()[-1].get(tensor.untyped_storage()._cdata)
    if made is None or made.version != tensor._version:
        # Detached, since an output that held its own node would keep both alive.
        return _Kept(tensor.detach(), tensor._version)
    return _Again(made, tensor.shape, tensor.stride(), int(tensor.storage_offset()))


def _unpack(kept: _Kept | _Again, of: str = "backward") -> Tensor:
    if isinstance(kept, _Kept):
        if kept.tensor._version != kept.version:
            raise RuntimeError(
                f"a tensor of shape {tuple(kept.tensor.shape)} that {of} needs was changed in place after the forward "
                "pass under saving('recompute')"
            )
        return kept.tensor
    made = kept.made
    inputs = [None if one is None else _unpack(one, f"computing {made.name} again") for one in made.inputs]
    with torch.no_grad():
        y = made.again(*inputs)
    return y.as_strided(kept.shape, kept.strides, kept.offset - made.offset)
