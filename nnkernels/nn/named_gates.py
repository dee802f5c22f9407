"""The gated activations that are `Gated` with one activation and a name of their own, made from their rows."""

from __future__ import annotations

import inspect
import math
from typing import Any, ClassVar

from ..functional.named_gates import with_constants
from ..registry import Gated as Row
from ..registry import catalogue, elementwise
from . import gated

__all__: list[str] = []


class _NamedGate(gated.Gated):
    """The base of them all: what makes one of them differ is its name and its gate."""

    _gate: ClassVar[str]

    def __init__(self, dim: int = -1, **options: Any) -> None:
        super().__init__(self._gate, dim, **options)

    def extra_repr(self) -> str:
        return ", ".join(self._options())


def _document(row: Row) -> str:
    constants = elementwise(row.gate).parameters
    told = "".join(f"\n        {name}: a number, as {row.gate} takes it." for name in constants)
    needed = ", ".join(f"{name}=1.0" for name, default in constants.items() if math.isnan(default))
    return f"""{row.formula}

    Args:
        dim: the dimension that is halved, if the module is called with one tensor.
        interleaved, gate_first, limit, limit_after, offset: as for `Gated`.{told}

    Shape: `(..., 2 n, ...)` to `(..., n, ...)`; called with gate and up, three of one shape. Values in {row.range}.
    Good for {row.good_for}; {row.drawback}.
    Source: {row.source}.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.{row.module}({needed})(torch.zeros(3, 8)).shape
        torch.Size([3, 4])
    """


def _make(row: Row) -> type[_NamedGate]:
    options = inspect.signature(gated.Gated)
    _activation, *parameters = options.parameters.values()
    members = {
        "__module__": __name__,
        "__doc__": _document(row),
        "__signature__": with_constants(options.replace(parameters=parameters), row.gate),
        "_gate": row.gate,
    }
    return type(row.module, (_NamedGate,), members)


for _row in catalogue(Row):
    if _row.module not in gated.__all__:
        globals()[_row.module] = _make(_row)
        __all__.append(_row.module)
