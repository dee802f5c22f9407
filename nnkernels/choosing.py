"""A name that is in force from here on or for the length of a `with` statement: the backend's, the saving policy's.

What a `with` statement chooses holds in its own thread or task alone, and statements that overlap may end in any order.
What a bare call chooses holds until the end of the statement around it, or for the whole process.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from threading import RLock
from types import TracebackType
from typing import ClassVar, TypeVar

import torch

Self = TypeVar("Self", bound="Choosing")


class _Made:
    """One choice. `owner` is the object whose `with` statement made it; None for a bare call."""

    def __init__(self, name: str, owner: Choosing | None) -> None:
        self.name, self.owner, self.holds = name, owner, True


class Choice:
    """Which of several names is in force."""

    def __init__(self, what: str, default: str) -> None:
        self._default = self._latest = default
        self.is_untouched = True
        """Whether nobody in this process has chosen anything but the default, in whichever thread."""
        self._here: ContextVar[tuple[_Made, ...]] = ContextVar(what, default=())
        self._everywhere: list[_Made] = []
        self._active: list[_Made] = []
        self._listeners: list[Callable[[], None]] = []
        self._lock = RLock()

    def __call__(self) -> str:
        """The name in force here; under a compiler the latest of the process, on which its graphs can be guarded."""
        if torch.compiler.is_compiling():
            return self._latest
        for made in reversed(self._here.get()):
            if made.holds:  # no other thread or task has taken it back
                return made.name
        return self._everywhere[-1].name if self._everywhere else self._default

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Calls `listener` now and whenever somebody chooses."""
        self._listeners.append(listener)
        listener()
        return listener

    def add(self, made: _Made) -> None:
        with self._lock:  # so that the listeners' last word is of the last change
            here = self._here.get()
            if made.owner is not None or here:
                self._here.set((*here, made))
            else:
                self._everywhere.append(made)
            self._active.append(made)
            self._tell()

    def remove(self, *unwanted: _Made) -> None:
        with self._lock:
            for made in unwanted:
                made.holds = False
            self._here.set(tuple(made for made in self._here.get() if made.holds))
            self._everywhere[:] = [made for made in self._everywhere if made.holds]
            self._active[:] = [made for made in self._active if made.holds]
            self._tell()

    def remove_latest_of(self, owner: Choosing) -> None:
        """Takes back what the statement of `owner` chose, and what bare calls chose inside of it."""
        here = self._here.get()
        at = max((i for i, made in enumerate(here) if made.owner is owner), default=None)
        if at is None:  # the statement ends in another thread or task than it began in
            self.remove(*[made for made in self._active if made.owner is owner][-1:])
            return
        inside = here[at + 1 :]
        bare = inside[: next((i for i, made in enumerate(inside) if made.owner is not None), len(inside))]
        self.remove(here[at], *bare)

    def _tell(self) -> None:
        self._latest = self._active[-1].name if self._active else self._default
        self.is_untouched = all(made.name == self._default for made in self._active)
        for listener in self._listeners:
            listener()


class Choosing:
    """The context manager that chooses a name; a class for each choice."""

    _choice: ClassVar[Choice]

    def __init__(self, name: str) -> None:
        self._name = name
        self._bare: _Made | None = _Made(name, None)
        self._choice.add(self._bare)

    def __enter__(self: Self) -> Self:
        if self._bare is not None:  # it was no bare call
            self._choice.remove(self._bare)
            self._bare = None
        self._choice.add(_Made(self._name, self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._choice.remove_latest_of(self)
