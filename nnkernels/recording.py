"""What the kernels of a call do, written down for the C++ node, which repeats it without Python from then on."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from . import _torch, ahead

_DEPENDS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Of operators whose results' values or sizes Python has seen, so that what follows may hang on them."""


class Recorder(TorchDispatchMode):
    """Within its `with` statement every operator that is called, and every kernel that is launched, becomes an event.

    `events` is None once something has happened that cannot be repeated, such as a number read from a tensor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[Any, ...]] | None = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if _DEPENDS.intersection(func.tags):
            self.events = None
        elif (results := _tensors(found)) is not None:  # what gives no tensor has told Python of types or sizes
            self.add("op", func._schema.name, func._schema.overload_name, args, kwargs or {}, results)
        return found

    def add(self, *event: Any) -> None:
        if self.events is not None:
            self.events.append(event)

    def add_launch(
        self, compiled: Any, grid: tuple[int, ...], given: dict[str, Any], scratch: Tensor | None = None
    ) -> None:
        """A launch of the kernel that Triton has compiled, with the arguments `given` by name, and its `scratch`.

        Of a kernel that was interpreted or not launched, None, nothing can be repeated.
        """
        if compiled is None:
            self.events = None
            return
        metadata = compiled.metadata
        special = metadata.launch_cooperative_grid or metadata.launch_pdl or metadata.num_ctas != 1
        if special or bool(metadata.global_scratch_size) != (scratch is not None) or metadata.profile_scratch_size:
            self.events = None
            return
        told = [(kind, given[name]) for name, kind in compiled.src.signature.items() if kind != "constexpr"]
        told += [("*i8", scratch), ("*i8", None)]  # Triton's own, the latter for a profiler
        self.add("launch", compiled.function, grid, metadata.num_warps, metadata.shared, tuple(told))


def _tensors(found: Any) -> tuple[Tensor, ...] | None:
    """The tensors that an operator returned, in one tuple; None if there is anything else."""
    if found is None:
        return ()
    if isinstance(found, Tensor):
        return (found,)
    if not isinstance(found, (tuple, list)):
        return None
    tensors: list[Tensor] = []
    for one in found:
        inside = _tensors(one)
        if inside is None:
            return None
        tensors += inside
    return tuple(tensors)


def recorder() -> Recorder | None:
    """The recorder that watches this call."""
    mode = _torch.current_dispatch_mode()
    return mode if isinstance(mode, Recorder) else None


def launch(kernel: Any, grid: tuple[int, ...], scratches: bool = False) -> Callable[..., None]:
    """What launches a Triton kernel, as `kernel[grid]` does, and tells the recorder.

    `scratches` says that the kernel asks for memory of its own, as one that makes tensor descriptors does.
    """

    def launched(*arguments: Any, **options: Any) -> None:
        scratch: list[Tensor] = []
        if ahead.is_active():
            kernel.warmup(*arguments, grid=grid, **options)
            compiled = None
        elif scratches:
            compiled = copy_context().run(_scratching, kernel[grid], arguments, options, scratch)
        else:
            compiled = kernel[grid](*arguments, **options)
        if (watching := recorder()) is not None:
            given = dict(zip(kernel.arg_names, arguments, strict=False)) | options
            watching.add_launch(compiled, grid, given, *scratch)

    return launched


def _scratching(launch: Any, arguments: tuple[Any, ...], options: dict[str, Any], made: list[Tensor]) -> Any:
    """`launch`, in a context of its own, whose allocator Triton asks for the kernel's memory, told in `made`.

    A recorder sees the allocation as any operator, so that a repeated call makes it again.
    """
    import triton

    device = next(one.device for one in arguments if isinstance(one, Tensor))

    def allocate(size: int, alignment: int, stream: int | None) -> Tensor:
        made.append(torch.empty(size, dtype=torch.int8, device=device))
        return made[-1]

    triton.set_allocator(allocate)
    return launch(*arguments, **options)


def recorded(call: Callable[[], Any], finish: Callable[[list[tuple[Any, ...]] | None, Any], None]) -> Any:
    """`call()`, and its events and result to `finish`: None for events that cannot be repeated."""
    with Recorder() as watching:
        found = call()
    finish(watching.events, found)
    return found
