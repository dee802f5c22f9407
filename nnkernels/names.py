"""Finding things by name, with an answer that helps where the name is wrong; the names of the package and its backends.

Nothing here needs torch, so that the command line can list names and refuse wrong ones at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

PACKAGE = __name__.partition(".")[0]
"""Under which this package was imported, and under which it registers operators in Python: `nnkernels`, or what Hugging
Face's `kernels` calls one version of it."""

BACKENDS = ("auto", "cpu", "cuda", "triton", "reference")
"""Each but the first is a class in `dispatch.py`, or a module or folder of nnkernels that gives one (`installed`).

Of those that serve a call of a family, "auto" takes the first; stateless activations have measured crossovers.
"""


def unknown(what: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for a name that does not exist: the nearest spelling, and all there are.

    Example:
        >>> from nnkernels.names import unknown
        >>> print(unknown("network", "cn", ["cnn", "mlp"]))
        unknown network 'cn'; did you mean 'cnn'? The known ones are: cnn, mlp
    """
    listed = list(known)
    close = difflib.get_close_matches(str(name).lower(), listed, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return ValueError(f"unknown {what} {name!r}{hint} The known ones are: {', '.join(listed)}")


def check(what: str, name: object, known: Iterable[str]) -> None:
    """Raises `unknown` for a name that is not among the known ones."""
    listed = tuple(known)
    if name not in listed:
        raise unknown(what, name, listed)
