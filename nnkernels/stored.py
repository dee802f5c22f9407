"""Tables of what was measured on this machine: files of JSON in the user's cache directory, as `merging.py` writes."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


def folder() -> Path | None:
    """Where the tables are: `$NNKERNELS_CACHE`, else `nnkernels` in the user's cache directory; None without a home."""
    if given := os.environ.get("NNKERNELS_CACHE"):
        return Path(given)
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):  # a relative one is to be ignored, by the specification of base directories
        return Path(given, "nnkernels")
    try:
        return Path.home() / ".cache" / "nnkernels"
    except RuntimeError:
        return None


def read(name: str, head: Mapping[str, Any]) -> list[Row]:
    """The rows of a table; none if there is no such table, and none, with a warning, if it cannot be used.

    Args:
        name: the file's.
        head: what the table has to say of itself: the version of its format, what it was measured on.
    """
    place = folder()
    if place is None:
        return []
    found = rows(place / name, head)
    if isinstance(found, str):
        told = f"nnkernels: {place / name} is ignored until something is measured for it again: {found}"
        warnings.warn(told, stacklevel=2)
        return []
    return found


def rows(file: Path, head: Mapping[str, Any]) -> list[Row] | str:
    """Those of a table, or one sentence why they cannot be used."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        return str(error)
    except (ValueError, RecursionError) as error:
        return f"it is no JSON ({error})"
    if not isinstance(found, dict) or not isinstance(found.get("rows"), list):
        return "it is no table"
    for key, value in head.items():
        if found.get(key) != value:
            return f"its {key} is {found.get(key)!r}, not {value!r}"
    return [row for row in found["rows"] if isinstance(row, dict)]
