"""How far a command is, on the error stream: one line that is written over, or a line now and then in a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

EVERY = 10
"""How many items apart two lines are where the stream is no terminal."""


def counted(items: Sequence[T], doing: str, name: Callable[[T], str]) -> Iterator[T]:
    """The items one after the other, each told of before it is worked on: "drawing 3 of 37: relu"."""
    stream = sys.stderr
    over = stream.isatty()
    for number, item in enumerate(items, 1):
        told = f"{doing} {number} of {len(items)}: {name(item)}"
        if over:
            print(f"\r\x1b[K{told}", end="", file=stream, flush=True)
        elif number % EVERY == 1:
            print(told, file=stream, flush=True)
        yield item
    if over:
        print("\r\x1b[K", end="", file=stream, flush=True)
