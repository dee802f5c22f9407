"""The C++ autograd node (csrc/bindings/autograd.cpp, csrc/bindings/node/): loaded once, for all that it serves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .. import dispatch, native, policies


def _load() -> Any:
    if os.environ.get("NNKERNELS_AUTOGRAD") == "python":
        return None
    file = native.node_file(torch.__version__)
    return native.extension("_autograd", file) if file and native.launcher("cpu") else None


module: Any = _load()
"""The extension; None if it was not built for this torch, or somebody prefers Python."""


def shown(name: str) -> str:
    """By which a profiler shows calls of the module `name`, and, with "Backward" behind it, their backward passes."""
    return f"NNKernels{name}"


serves = False
"""Whether it may be used: there is one, and nobody has chosen a backend or a policy, or goes past it."""

repeats = False
"""The same whatever policy somebody has chosen, as for forms, of which each keeps the same under all."""

_bypasses = 0


def has_cpp_node() -> bool:
    """Whether the C++ autograd node serves plain calls."""
    return module is not None


@dispatch.chosen.on_change
@policies.chosen.on_change
def _follow_choices() -> None:
    global serves, repeats
    repeats = module is not None and dispatch.chosen.is_untouched and not _bypasses
    serves = repeats and policies.chosen.is_untouched


@contextmanager
def bypassed() -> Iterator[None]:
    """Within its `with` statement the node serves no call, and learns nothing."""
    global _bypasses
    _bypasses += 1
    _follow_choices()
    try:
        yield
    finally:
        _bypasses -= 1
        _follow_choices()
