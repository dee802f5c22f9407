"""The activations with learned parameters that are made from their rows of the catalogue, which say where those start.

Those whose parameters have other shapes, or which take numbers as well, stand in `learned.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function  # noqa: F401  (in the functions' source)

from ..autograd import learned as autograd  # noqa: F401
from ..autograd.shortcut import shortcut
from ..parameters import check  # noqa: F401
from ..registry import Learned, catalogue

__all__: list[str] = []

_TEMPLATE = """
def {name}(input: Tensor, {typed}) -> Tensor:
    given = (input, {names})
    if has_torch_function(given):
        return handle_torch_function({name}, given, *given)
    check({name!r}, input, {named})
    return autograd.call({name!r}, input, given[1:])
"""


def _make(row: Learned) -> Callable[..., Tensor]:
    """Compiled from source for a true signature; its globals are this module's, where compilers look them up."""
    source = _TEMPLATE.format(
        name=row.name,
        names=", ".join(row.start),
        typed=", ".join(f"{name}: Tensor" for name in row.start),
        named=", ".join(f"{name}={name}" for name in row.start),
    )
    made: dict[str, Any] = {}
    exec(source, globals(), made)
    function = made[row.name]
    function.__doc__ = _document(row)
    return shortcut(function)


def _document(row: Learned) -> str:
    told = "".join(
        f"\n        {name}: a tensor of one element, or of shape (C,) for an input (N, C, ...); of any of the four"
        "\n            types."
        for name in row.start
    )
    values = ", ".join(f"torch.tensor({value})" for value in row.start.values())
    return f"""{row.formula}

    Args:
        input: a tensor of any shape and layout; float64, float32, bfloat16 or float16.{told}

    Returns:
        A tensor like `input`; values in {row.range}. All gradients come from one pass, the parameters' added up in
        float32 (float64 for float64) and bitwise the same in every run and for any number of threads.

    Raises:
        ValueError: a parameter has neither one element nor one for each channel.
        RuntimeError: the devices differ, or the backend chosen by name cannot serve the input.
        NotImplementedError: the type is not one of the four.

    The derivative is {row.derivative}.
    Good for {row.good_for}; {row.drawback}.
    Source: {row.source}.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.{row.name}(torch.zeros(2, 3), {values}).shape
        torch.Size([2, 3])
    """


for _row in catalogue(Learned):
    if _row.start:
        globals()[_row.name] = _make(_row)
        __all__.append(_row.name)
