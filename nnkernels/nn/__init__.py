"""The family as modules: each a subclass of its `torch.nn` namesake where there is one, so that constructor, state
dict, repr, pickling and `isinstance` stay what they were; only `forward` is ours.

Each file of this folder is a family; a new one is found by itself.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import Any

from .elementwise import module_of as module_of

_FAMILIES = tuple(importlib.import_module(f"{__name__}.{one.name}") for one in pkgutil.iter_modules(__path__))

# Most modules are made from the catalogue's rows; tools/stubs.py writes down for type checkers which there are.
__all__ = list(dict.fromkeys(name for family in _FAMILIES for name in family.__all__))
globals().update({name: getattr(family, name) for family in _FAMILIES for name in family.__all__})


def __getattr__(name: str) -> Any:
    close = difflib.get_close_matches(name, __all__, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise AttributeError(f"module {__name__!r} has no activation {name!r}{hint}")
