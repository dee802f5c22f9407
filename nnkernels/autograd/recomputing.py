"""saving("recompute"): what follows an activation or norm keeps no copy of its output, but computes it again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

_MOST_STEPS = 2
"""From what is kept to what is made again: enough for a gate of an activation's output. Of blocks in a row that add
what they return to what they were given, each of which could be made of the one before, the third is kept."""


@dataclass
class _Made:
    """How a tensor came about: the form called `name` is `again` of the inputs."""

    storage: StorageWeakRef
    version: int
    dtype: torch.dtype
    name: str
    again: Callable[..., Tensor]
    inputs: tuple[_Kept | _Again | None, ...]
    steps: int
    offset: int
    users: int = 0
    served: int = 0
    latest: Tensor | None = None
    """Made again for one of the users, until the last of them has had it."""

    def tensor(self) -> Tensor:
        y = self.latest
        if y is None:
            inputs = [None if one is None else _unpack(one, f"computing {self.name} again") for one in self.inputs]
            with torch.no_grad():
                y = self.again(*inputs)
        self.served += 1
        self.latest = None if self.served % self.users == 0 else y
        return y


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
    sources = [None if x is None else _source(x) for x in inputs]
    steps = 1 + max(0 if made is None else made.steps for made in sources)
    if steps > _MOST_STEPS:
        return
    storage = StorageWeakRef(y.untyped_storage())
    packed = tuple(None if x is None else _packed(x, made) for x, made in zip(inputs, sources, strict=True))
    offset = int(y.storage_offset())
    outputs[storage.cdata] = _Made(storage, y._version, y.dtype, name, again, packed, steps, offset)


def _source(tensor: Tensor) -> _Made | None:
    """How the tensor of which this one is a view can be made again; None if it has to be kept."""
    if not _outputs.get() or type(tensor) is not Tensor or tensor.layout != torch.strided:
        return None
    made = _outputs.get()[-1].get(tensor.untyped_storage()._cdata)
    if made is None or made.version != tensor._version:
        return None
    # Views of numbers as others, such as complex ones, are kept.
    return None if tensor.dtype != made.dtype or tensor.is_neg() or tensor.is_conj() else made


def _pack(tensor: Tensor) -> _Kept | _Again:
    return _packed(tensor, _source(tensor))


def _packed(tensor: Tensor, made: _Made | None) -> _Kept | _Again:
    if made is None:
        # Detached, since an output that held its own node would keep both alive.
        return _Kept(tensor.detach(), tensor._version)
    made.users += 1
    return _Again(made, tensor.shape, tensor.stride(), int(tensor.storage_offset()))


def _unpack(kept: _Kept | _Again, of: str = "backward") -> Tensor:
    if isinstance(kept, _Again):
        made = kept.made
        return made.tensor().as_strided(kept.shape, kept.strides, kept.offset - made.offset)
    tensor, version = kept
    if tensor._version != version:
        raise RuntimeError(
            f"a tensor of shape {tuple(tensor.shape)} that {of} needs was changed in place after the forward "
            "pass under saving('recompute')"
        )
    if tensor.layout == torch.strided and tensor.numel() and not tensor.untyped_storage().nbytes():
        raise RuntimeError(
            f"the memory of a tensor of shape {tuple(tensor.shape)} that {of} needs has been freed after the forward "
            "pass under saving('recompute'), as FSDP frees the parameters of a block that is done: what one block "
            "returns cannot be made again for another; enter saving('recompute') inside of each block"
        )
    return tensor
