"""Packages whose names are imported when they are first used (PEP 562): what asks for none of them needs no torch."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from typing import Any


def attributes(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__`.

    Args:
        package: its name.
        homes: for each public name the submodule that has it. Submodules themselves are found without being named.

    Example:
        >>> from nnkernels.lazy import attributes
        >>> find, names = attributes("nnkernels", {"init_for": "initialization"})
        >>> find("init_for").__module__
        'nnkernels.initialization'
    """

    def find(name: str) -> Any:
        if name in homes:
            value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
            setattr(sys.modules[package], name, value)
            return value
        if not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}") is not None:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find, lambda: sorted({*vars(sys.modules[package]), *sys.modules[package].__all__})
