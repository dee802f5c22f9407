"""The family as modules: each a subclass of its `torch.nn` namesake where there is one, so that constructor, state
dict, repr, pickling and `isinstance` stay what they were; only `forward` is ours.
"""

from __future__ import annotations

import difflib
from typing import Any

from . import (
    alpha_dropout,
    batch_normalization,
    elementwise,
    fused,
    gated,
    learned,
    normalization,
    pooling,
    quantized,
    random,
    reducing,
    spiking,
)
from .alpha_dropout import *  # noqa: F403
from .batch_normalization import *  # noqa: F403
from .elementwise import *  # noqa: F403
from .elementwise import module_of as module_of
from .fused import *  # noqa: F403
from .gated import *  # noqa: F403
from .learned import *  # noqa: F403
from .normalization import *  # noqa: F403
from .pooling import *  # noqa: F403
from .quantized import *  # noqa: F403
from .random import *  # noqa: F403
from .reducing import *  # noqa: F403
from .spiking import *  # noqa: F403

__all__ = [
    *elementwise.__all__,
    *learned.__all__,
    *random.__all__,
    *reducing.__all__,
    *pooling.__all__,
    *gated.__all__,
    *alpha_dropout.__all__,
    *normalization.__all__,
    *batch_normalization.__all__,
    *fused.__all__,
    *quantized.__all__,
    *spiking.__all__,
]


def __getattr__(name: str) -> Any:
    close = difflib.get_close_matches(name, __all__, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise AttributeError(f"module {__name__!r} has no activation {name!r}{hint}")
