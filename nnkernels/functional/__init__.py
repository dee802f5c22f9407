"""The family as functions, with the signatures of `torch.nn.functional`: swapping the import is the whole migration."""

from __future__ import annotations

import difflib
from typing import Any

from . import (
    addressing,
    batch_normalization,
    capsules,
    elementwise,
    fused,
    gated,
    learned,
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
from .elementwise import function_of as function_of

_FAMILIES = (
    elementwise,
    learned,
    random,
    reducing,
    sparsemax,
    pooling,
    gated,
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

# Most functions are made from the catalogue's rows; tools/stubs.py writes down for type checkers which there are.
__all__ = [name for family in _FAMILIES for name in family.__all__]
globals().update({name: getattr(family, name) for family in _FAMILIES for name in family.__all__})


def __getattr__(name: str) -> Any:
    close = difflib.get_close_matches(name, __all__, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise AttributeError(f"module {__name__!r} has no activation {name!r}{hint}")
