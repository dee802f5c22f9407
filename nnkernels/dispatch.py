"""Chooses the kernels: an explicit choice is honoured or raises, `auto` follows measured crossovers."""

from __future__ import annotations

import importlib
import importlib.util
import json
from functools import cache
from pathlib import Path
from types import ModuleType

from torch import Tensor

from . import native
from .choosing import Choice, Choosing
from .contracts.elementwise import Backend
from .names import BACKENDS as NAMES
from .reference.backend import Reference

CROSSOVERS = Path(__file__).parent / "crossovers.json"


class Unserved(RuntimeError):
    """The backend that was chosen has no kernels for a call of a family."""


REFERENCE: Backend = Reference()


class _Cuda(native.Native):
    """The CUDA kernels, which leave second derivatives to Triton, or to the reference without it."""

    def double_backward(
        self, name: str, grad_grad: Tensor, grad: Tensor, x: Tensor, a: float, b: float
    ) -> tuple[Tensor, Tensor]:
        triton = named("triton")
        if isinstance(triton, str) or not triton.has(name) or triton.unavailable(x.device):
            return REFERENCE.double_backward(name, grad_grad, grad, x, a, b)
        return triton.double_backward(name, grad_grad, grad, x, a, b)


NATIVE: dict[str, Backend] = {"cpu": native.Native("cpu"), "cuda": _Cuda("cuda")}


@cache
def named(name: str) -> Backend | str:
    """The backend called `name`, or one sentence why this installation lacks it."""
    if name == "reference":
        return REFERENCE
    if name in NATIVE:
        loaded = native.library(name)
        return loaded if isinstance(loaded, str) else NATIVE[name]
    return importlib.import_module(f"{__package__}.{name}").installed()


chosen = Choice("backend", "auto")
"""The name given to `backend`."""


class backend(Choosing):
    """Chooses the kernels, in a `with` statement until its end, else from here on.

    A `with` statement holds in its own thread or task. A bare call holds until the end of the `with` statement around
    it, or for the whole process. One object may be entered again and again.

    Args:
        name: "auto" (the measured fastest for device, type and size), "cuda", "triton", "cpu" or "reference".

    Raises:
        ValueError: `name` is none of these.

    A call that the chosen kernels cannot serve raises RuntimeError; only "auto" falls back.

    Example:
        >>> import torch, nnkernels
        >>> with nnkernels.backend("reference"):
        ...     nnkernels.functional.mish(torch.zeros(2))
        tensor([0., 0.])
    """

    _choice = chosen

    def __init__(self, name: str) -> None:
        if name not in NAMES:
            raise ValueError(f"unknown backend {name!r}; the known ones are: {', '.join(NAMES)}")
        super().__init__(name)


@cache
def crossovers() -> dict[str, dict[str, list[tuple[int, list[str]]]]]:
    """For each device type and dtype: from how many elements on which backends are preferred, best first."""
    return json.loads(CROSSOVERS.read_text())


@cache
def _preferred(device_type: str, dtype: str) -> list[tuple[int, list[str]]]:
    table = crossovers().get(device_type, {})
    return table.get(dtype, table.get("default", []))


def select(name: str, x: Tensor) -> Backend:
    """The backend for the row called `name` on `x`.

    Raises:
        RuntimeError: the backend chosen with `nnkernels.backend` cannot serve `x`.
    """
    if (choice := chosen()) != "auto":
        return _explicit(choice, name, x)
    elements = x.numel()
    ranked: list[str] = []
    for least, backends in _preferred(x.device.type, str(x.dtype)):
        if elements >= least:
            ranked = backends
    for candidate in ranked:
        found = named(candidate)
        if not isinstance(found, str) and found.has(name) and found.unavailable(x.device) is None:
            return found
    return REFERENCE


def kernels(family: str, x: Tensor, activation: str | None = None, row: str | None = None) -> ModuleType:
    """The module that computes the activations of `family`, "reducing" for instance, for `x`.

    It fulfils the family's protocol in `contracts/`, as those in `cpu/`, `triton/` and `reference/` all do.
    `activation` names the stateless row that they are to evaluate, if they evaluate one; `row` that of the family, if
    its kernels are told which of several they are to compute (`FORMULAS`).

    Raises:
        Unserved: the backend chosen with `nnkernels.backend` cannot serve `x`.
    """
    choice = chosen()
    for name in with_families() if choice == "auto" else (choice,):
        found = _family(name, family)
        reason = found if isinstance(found, str) else _unavailable(name, x, activation) or _lacking(found, row)
        if reason is None:
            return found  # type: ignore[return-value]
    raise Unserved(f"nnkernels.backend({choice!r}) cannot serve the {family} activations of {tuple(x.shape)}: {reason}")


@cache
def with_families() -> tuple[str, ...]:
    """The backends that are more than the stateless activations: each a folder, with a module for each family."""
    return tuple(name for name in NAMES if (Path(__file__).parent / name).is_dir())


@cache
def _family(name: str, family: str) -> ModuleType | str:
    """The module of kernels, or one sentence why there is none."""
    if name not in with_families():
        return f"it computes stateless activations alone; {', '.join(with_families())} have families"
    found = named(name)
    if isinstance(found, str):
        return found
    module = f"{__package__}.{name}.{family}"
    if importlib.util.find_spec(module) is None:
        return f"the {family} activations have no kernels there"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"


def _unavailable(name: str, x: Tensor, activation: str | None) -> str | None:
    found = named(name)
    if isinstance(found, str):
        return found
    if activation is not None and not found.has(activation):
        return f"it has no row called {activation!r}"
    return found.unavailable(x.device)


def _lacking(kernels: ModuleType, row: str | None) -> str | None:
    return f"it has no row called {row!r}" if row is not None and row not in kernels.FORMULAS else None


def _explicit(choice: str, name: str, x: Tensor) -> Backend:
    found = named(choice)
    if isinstance(found, str):
        raise RuntimeError(f"nnkernels.backend({choice!r}) cannot be honoured: {found}")
    reason = found.unavailable(x.device) if found.has(name) else f"it has no row called {name!r}"
    if reason:
        raise RuntimeError(f"nnkernels.backend({choice!r}) cannot serve {name} of {tuple(x.shape)}: {reason}")
    return found
