"""The stateless activations as functions.

Every function but `gelu` is made from its row of the catalogue; `help(nnkernels.functional.mish)` shows the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..arguments import number  # noqa: F401  (in the functions' source)
from ..autograd import elementwise as autograd
from ..registry import Activation, catalogue

__all__ = ["gelu"]

_VARIANTS = {row.variant: row for row in catalogue(Activation) if row.variant}


def gelu(input: Tensor, *, approximate: str = "none") -> Tensor:
    """The Gaussian error linear unit, x Phi(x), or one of its two approximations.

    Args:
        input: a tensor of any shape and layout; float64, float32, bfloat16 or float16.
        approximate: "none", "tanh" (x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))) or "sigmoid" (x sigmoid(1.702 x),
            the "quick" GELU, which torch lacks).

    Returns:
        A tensor with the shape, type and strides that `torch.nn.functional.gelu` gives.

    Raises:
        RuntimeError: `approximate` is none of the three.
        NotImplementedError: the type is not one of the four.

    Source: Hendrycks & Gimpel 2016, Gaussian Error Linear Units.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.gelu(torch.tensor([-10.0]))  # torch.nn.functional.gelu gives -0.0
        tensor([-7.6199e-23])
    """
    row = variant(approximate)
    return autograd.call(row, _FUNCTIONS.get(row.name, gelu), input, 0.0, 0.0)


def variant(approximate: str) -> Activation:
    """The row that `approximate` means.

    Raises:
        RuntimeError: it is none of the three.
    """
    row = _VARIANTS.get(approximate)
    if row is None:
        raise RuntimeError(f"gelu(): approximate must be one of {', '.join(map(repr, _VARIANTS))}, got {approximate!r}")
    return row


_ROWS: dict[str, Activation] = {}
_FUNCTIONS: dict[str, Callable[..., Tensor]] = {}

_TEMPLATE = """
def {name}({signature}):
    return autograd.call(_ROWS[{name!r}], _FUNCTIONS[{name!r}], input, {a}, {b}, {inplace})
"""

_INPLACE_TEMPLATE = """
def {name}_({signature}):
    return autograd.call(_ROWS[{name!r}], _FUNCTIONS["{name}_"], input, {a}, {b}, True)
"""


def signature(row: Activation, receiver: str, inplace: bool) -> str:
    """The parameter list of the row's function or constructor, as source."""
    given = [name if math.isnan(default) else f"{name}={default!r}" for name, default in row.parameters.items()]
    return ", ".join([receiver, *given, *(["inplace=False"] if inplace else [])])


def constants(row: Activation, caller: str, of: str = "") -> tuple[str, str]:
    """The row's two constants as source: arguments or, with `of` "self.", attributes, checked to be numbers."""
    given = [
        f"({of}{name} if type({of}{name}) is float else number({caller!r}, {name!r}, {of}{name}))"
        for name in row.parameters
    ]
    a, b = [*given, "0.0", "0.0"][:2]
    return a, b


def _make(template: str, row: Activation, inplace: bool) -> Callable[..., Tensor]:
    # Compiled from source, as dataclasses do, for a true signature and a call without argument packing. Its globals are
    # those of this module, where compilers look them up again.
    a, b = constants(row, row.name)
    source = template.format(
        name=row.name, signature=signature(row, "input", inplace), a=a, b=b, inplace="inplace" if inplace else "False"
    )
    made: dict[str, Any] = {}
    exec(source, globals(), made)
    (name,) = made
    return _FUNCTIONS.setdefault(name, made[name])


def _document(function: Callable[..., Tensor], row: Activation, inplace: bool) -> None:
    told = "".join(f"\n        {name}: a number." for name in row.parameters)
    flag = "\n        inplace: whether to write the result into `input`." if inplace else ""
    refused = "\n        TypeError: a constant is no number, or a tensor that requires a gradient." * bool(
        row.parameters
    )
    arguments = ", ".join(["torch.zeros(2)", *("1.0" for d in row.parameters.values() if math.isnan(d))])
    function.__doc__ = f"""{row.formula}

    Args:
        input: a tensor of any shape and layout; float64, float32, bfloat16 or float16.{told}{flag}

    Returns:
        A tensor with the shape, type and strides that torch gives; values in {row.range}.

    Raises:
        NotImplementedError: the type is not one of the four.{refused}
        RuntimeError: the backend chosen by name cannot serve the input{", or a leaf is written" if inplace else ""}.

    The derivative is {row.derivative}.
    Good for {row.good_for}; {row.drawback}.
    Source: {row.source}.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.{row.name}({arguments}).shape
        torch.Size([2])
    """


def install(row: Activation) -> dict[str, Callable[..., Tensor]]:
    """Makes the functions of `row`, which this module has from then on; returns them by name."""
    _ROWS[row.name] = row
    function = _make(_TEMPLATE, row, row.inplace)
    _document(function, row, row.inplace)
    made = {row.name: function}
    if row.inplace:
        made[f"{row.name}_"] = _make(_INPLACE_TEMPLATE, row, False)
    for name in made.keys() - globals().keys():
        globals()[name] = made[name]
        __all__.append(name)
    return made


for _row in catalogue(Activation):
    install(_row)


def function_of(row: Activation) -> Callable[..., Tensor]:
    """The public function of a row: `F.mish` of the row called "mish"."""
    return _FUNCTIONS[row.name]
