"""The stateless activations as modules.

Every class but `GELU` is made from its row of the catalogue.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..functional import elementwise as functional
from ..registry import Activation, catalogue

__all__ = ["GELU"]


class GELU(torch.nn.GELU):
    """`torch.nn.GELU`, with a third value of `approximate`: "sigmoid", x sigmoid(1.702 x), the "quick" GELU.

    Args:
        approximate: "none", "tanh" or "sigmoid".

    Shape: input and output alike, any shape. Source: Hendrycks & Gimpel 2016.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.GELU(approximate="tanh")(torch.zeros(2))
        tensor([0., 0.])
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.gelu(input, approximate=self.approximate)


_FORWARD = """
def forward(self, input):
    return _function({arguments})
"""

_INIT = """
def __init__({signature}):
    super(_class, self).__init__()
    {assignments}
"""


class _Activation(torch.nn.Module):
    """The base of the modules that torch lacks."""

    _constants: tuple[str, ...] = ()

    def extra_repr(self) -> str:
        shown = [f"{name}={getattr(self, name)}" for name in self._constants]
        return ", ".join([*shown, *(["inplace=True"] if getattr(self, "inplace", False) else [])])


def _module(row: Activation) -> type[torch.nn.Module]:
    base = getattr(torch.nn, row.module, None)
    attributes = [*row.parameters, *(["inplace"] if row.inplace else [])]
    scope: dict[str, Any] = {"_function": functional.function_of(row)}
    exec(_FORWARD.format(arguments=", ".join(["input", *(f"self.{name}" for name in attributes)])), scope)
    members: dict[str, Any] = {"forward": scope["forward"], "__module__": __name__, "__doc__": _document(row)}
    if base is None:
        members["_constants"] = tuple(row.parameters)
        source = _INIT.format(
            signature=functional.signature(row, "self", row.inplace),
            assignments="; ".join(f"self.{name} = {name}" for name in attributes) or "pass",
        )
        exec(source, scope)
        members["__init__"] = scope["__init__"]
    made = type(row.module, (base or _Activation,), members)
    scope["_class"] = made
    return made


def _document(row: Activation) -> str:
    arguments = ", ".join("1.0" for default in row.parameters.values() if math.isnan(default))
    constants = (
        "".join(f"\n        {name}: a number." for name in row.parameters) or "\n        None but the flags below."
    )
    flag = "\n        inplace: whether to write the result into the input." if row.inplace else ""
    return f"""{row.formula}

    Args:{constants}{flag}

    Shape: input and output alike, any shape. Values in {row.range}.
    Good for {row.good_for}; {row.drawback}.
    Source: {row.source}.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.{row.module}({arguments})(torch.zeros(2)).shape
        torch.Size([2])
    """


for _row in catalogue(Activation):
    if _row.module not in globals():
        globals()[_row.module] = _module(_row)
        __all__.append(_row.module)


def module_of(row: Activation) -> type[torch.nn.Module]:
    """The module class of a row: `nn.Mish` of the row called "mish"."""
    return globals()[row.module]
