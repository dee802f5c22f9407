"""The stateless activations as modules.

Every class but `GELU` is made from its row of the catalogue.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor

from .. import policies
from ..arguments import number
from ..autograd import elementwise as autograd
from ..functional import elementwise as functional
from ..registry import Activation, catalogue

__all__ = ["GELU"]


class GELU(torch.nn.GELU):
    """`torch.nn.GELU`, with a third value of `approximate`: "sigmoid", x sigmoid(1.702 x), the "quick" GELU.

    Args:
        approximate: "none", "tanh" or "sigmoid".
        saving: what backward keeps, as in `nnkernels.saving`; None follows that.

    Shape: input and output alike, any shape. Source: Hendrycks & Gimpel 2016.

    Example:
        >>> import torch, nnkernels
        >>> nnkernels.nn.GELU(approximate="tanh")(torch.zeros(2))
        tensor([0., 0.])
    """

    saving: str | None = None

    def __init__(self, approximate: str = "none", *, saving: str | None = None) -> None:
        super().__init__(approximate)
        policies.check_of_module(functional.variant(approximate), saving, 0.0, 0.0)
        self.saving = saving

    def forward(self, input: Tensor) -> Tensor:
        if self.saving is None:
            return functional.gelu(input, approximate=self.approximate)
        row = functional.variant(self.approximate)
        return autograd.call(row, functional.gelu, input, 0.0, 0.0, policy=self.saving)

    def extra_repr(self) -> str:
        return with_saving(super().extra_repr(), self.saving)


_FORWARD = """
def forward(self, input):
    if self.saving is None:
        return _function({arguments})
    return _call(_row, _function, input, {a}, {b}, {inplace}, self.saving)
"""

_INIT = """
def __init__({signature}, *, saving=None):
    super(_class, self).__init__()
    {assignments}
    _check(_row, saving, {a}, {b})
    self.saving = saving
"""

_INIT_AS_TORCH = """
def __init__(self, *args, saving=None, **kwargs):
    super(_class, self).__init__(*args, **kwargs)
    _check(_row, saving, {a}, {b})
    self.saving = saving
"""


def with_saving(shown: str, saving: str | None) -> str:
    return shown if saving is None else ", ".join(filter(None, [shown, f"saving={saving!r}"]))


class _Activation(torch.nn.Module):
    """The base of the modules that torch lacks."""

    _constants: tuple[str, ...] = ()

    def extra_repr(self) -> str:
        shown = [f"{name}={getattr(self, name)}" for name in self._constants]
        return ", ".join([*shown, *(["inplace=True"] if getattr(self, "inplace", False) else [])])


def _module(row: Activation) -> type[torch.nn.Module]:
    base = getattr(torch.nn, row.module, None)
    attributes = [*row.parameters, *(["inplace"] if row.inplace else [])]
    a, b = functional.constants(row, row.module, "self.")
    scope: dict[str, Any] = {"_function": functional.function_of(row), "_call": autograd.call}
    scope |= {"_row": row, "_check": policies.check_of_module, "number": number}
    source = _FORWARD + (_INIT_AS_TORCH if base else _INIT)
    exec(
        source.format(
            arguments=", ".join(["input", *(f"self.{name}" for name in attributes)]),
            a=a,
            b=b,
            inplace="self.inplace" if row.inplace else "False",
            signature=functional.signature(row, "self", row.inplace),
            assignments="; ".join(f"self.{name} = {name}" for name in attributes) or "pass",
        ),
        scope,
    )
    shown = (base or _Activation).extra_repr
    members: dict[str, Any] = {
        "__module__": __name__,
        "__doc__": _document(row),
        "__init__": scope["__init__"],
        "forward": scope["forward"],
        "extra_repr": lambda self: with_saving(shown(self), self.saving),
        "saving": None,  # of modules that were pickled before there was a choice
        "_constants": tuple(row.parameters),
    }
    made = type(row.module, (base or _Activation,), members)
    if base is not None:
        theirs = inspect.signature(base.__init__).parameters.values()
        named = [one for one in theirs if one.kind is one.POSITIONAL_OR_KEYWORD]
        keyword = inspect.Parameter("saving", inspect.Parameter.KEYWORD_ONLY, default=None)
        scope["__init__"].__signature__ = inspect.Signature([*named, keyword])
    scope["_class"] = made
    return made


def _document(row: Activation) -> str:
    arguments = ", ".join("1.0" for default in row.parameters.values() if math.isnan(default))
    constants = "".join(f"\n        {name}: a number." for name in row.parameters) or ""
    flag = "\n        inplace: whether to write the result into the input." if row.inplace else ""
    flag += "\n        saving: what backward keeps, as in `nnkernels.saving`; None follows that."
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


def install(row: Activation) -> type[torch.nn.Module]:
    """Makes the module class of `row`, which this module has from then on."""
    if row.module not in globals():
        globals()[row.module] = _module(row)
        __all__.append(row.module)
    return globals()[row.module]


for _row in catalogue(Activation):
    install(_row)


def module_of(row: Activation) -> type[torch.nn.Module]:
    """The module class of a row: `nn.Mish` of the row called "mish"."""
    return globals()[row.module]
