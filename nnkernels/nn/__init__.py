"""The family as modules: each a subclass of its `torch.nn` namesake where there is one, so that constructor, state
dict, repr, pickling and `isinstance` stay what they were; only `forward` is ours.
"""

from __future__ import annotations

import difflib
from typing import Any

from . import (
    addressing,
    alpha_dropout,
    batch_normalization,
    capsules,
    elementwise,
    fused,
    gated,
    learned,
    learned_units,
    linear,
    normalization,
    pooling,
    quantized,
    radial,
    random,
    recurrent,
    reducing,
    scaling,
    sparsemax,
    spiking,
)
from .elementwise import module_of as module_of

_FAMILIES = (
    elementwise,
    learned,
    learned_units,
    random,
    reducing,
    sparsemax,
    pooling,
    gated,
    alpha_dropout,
    normalization,
    batch_normalization,
    fused,
    linear,
    scaling,
    quantized,
    spiking,
    addressing,
    capsules,
    radial,
    recurrent,
)

# Most modules are made from the catalogue's rows; tools/stubs.py writes down for type checkers which there are.
__all__ = [name for family in _FAMILIES for name in family.__all__]
globals().update({name: getattr(family, name) for family in _FAMILIES for name in family.__all__})


def __getattr__(name: str) -> Any:
    close = difflib.get_close_matches(name, __all__, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise AttributeError(f"module {__name__!r} has no activation {name!r}{hint}")
