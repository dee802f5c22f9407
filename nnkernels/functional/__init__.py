"""The family as functions, with the signatures of `torch.nn.functional`: swapping the import is the whole migration."""

from __future__ import annotations

import difflib
from typing import Any

from . import (
    batch_normalization,
    elementwise,
    fused,
    learned,
    normalization,
    pooling,
    quantized,
    random,
    reducing,
    spiking,
)
from .batch_normalization import *  # noqa: F403
from .elementwise import *  # noqa: F403
from .elementwise import function_of as function_of
from .fused import *  # noqa: F403
from .gated import *  # noqa: F403
from .gated import __all__ as _gated  # here the function has the module's name
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
    *_gated,
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
