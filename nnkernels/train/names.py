"""Finding things by name, with an answer that helps where the name is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

Found = TypeVar("Found")


def unknown(what: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for a name that does not exist: the nearest spelling, and all there are.

    Example:
        >>> from nnkernels.train.names import unknown
        >>> print(unknown("network", "cn", ["cnn", "mlp"]))
        unknown network 'cn'; did you mean 'cnn'? The known ones are: cnn, mlp
    """
    listed = list(known)
    close = difflib.get_close_matches(str(name).lower(), listed, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return ValueError(f"unknown {what} {name!r}{hint} The known ones are: {', '.join(listed)}")


def find(what: str, name: str, known: Mapping[str, Found]) -> Found:
    """`known[name]`, or `unknown`."""
    if name not in known:
        raise unknown(what, name, known)
    return known[name]
