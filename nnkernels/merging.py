"""What writes the tables of `stored.py`, whoever else writes them at the same time."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .stored import Row, folder
from .stored import rows as rows_of


def merge(name: str, head: Mapping[str, Any], rows: Iterable[Row], identity: Callable[[Row], Hashable]) -> Path:
    """Puts rows into a table, in place of those of the same `identity`; all others stay.

    A table that cannot be used is begun anew.

    Args:
        name: the file's.
        head: what the table says of itself.
        rows: each of numbers, names and what else JSON has.
        identity: what two rows share of which one takes the other's place.

    Returns:
        The table's file.

    Raises:
        OSError: the folder cannot be made or written, or there is none.
    """
    from .train.checkpoint import write_whole
    from .train.locking import locked

    place = folder()
    if place is None:
        raise FileNotFoundError("there is no home directory")
    place.mkdir(parents=True, exist_ok=True)
    file = place / name
    with locked(file.with_suffix(".lock"), str(file), wait=True):
        before = rows_of(file, head)
        known = {identity(row): row for row in ([] if isinstance(before, str) else before)}
        known |= {identity(row): row for row in rows}
        write_whole(file, _text(head, known.values()).encode())
    return file


def _text(head: Mapping[str, Any], rows: Iterable[Row]) -> str:
    """With each row on a line."""
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    told = "".join(f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items())
    return f'{{\n{told} "rows": [\n{lines}\n ]\n}}\n'
