"""The gated activations that are `gated` with one activation and a name of their own: made from the catalogue's rows.

`help(nnkernels.functional.reglu)` shows the result. Those that choose between activations stand in `gated.py`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ..autograd import gated as autograd
from ..autograd.shortcut import shortcut
from ..registry import Gated, catalogue, elementwise
from .gated import __all__ as by_hand
from .gated import check_gated, gating

__all__: list[str] = []


def with_constants(signature: inspect.Signature, gate: str) -> inspect.Signature:
    """The signature with the constants of the activation `gate`, by keyword alone, for its last, `**constants`."""
    *parameters, rest = signature.parameters.values()
    constants = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if math.isnan(default) else default,
            annotation=rest.annotation,
        )
        for name, default in elementwise(gate).parameters.items()
    ]
    return signature.replace(parameters=[*parameters, *constants])


def _make(row: Gated) -> Callable[..., Tensor]:
    name, gate = row.name, row.gate  # what a compiler guards on is then two strings

    def function(
        input: Tensor,
        up: Tensor | None = None,
        dim: int = -1,
        *,
        interleaved: bool = False,
        gate_first: bool = True,
        limit: float | None = None,
        offset: float = 0.0,
        **constants: float,
    ) -> Tensor:
        if has_torch_function((input, up)):
            return handle_torch_function(
                made, (input, up), input, up, dim,
                interleaved=interleaved, gate_first=gate_first, limit=limit, offset=offset, **constants,
            )  # fmt: skip
        chosen = gating(gate, dim, interleaved, gate_first, limit, offset, constants)
        check_gated(name, input, up, chosen)
        return autograd.call(chosen, input, up)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = _document(row)
    function.__signature__ = with_constants(inspect.signature(function), gate)  # type: ignore[attr-defined]
    made = shortcut(function)
    return made


def _document(row: Gated) -> str:
    constants = elementwise(row.gate).parameters
    told = "".join(f"\n        {name}: a number, as {row.gate} takes it." for name in constants)
    needed = "".join(f", {name}=1.0" for name, default in constants.items() if math.isnan(default))
    refused = "\n        TypeError: a constant is missing, or no number." * bool(constants)
    return f"""{row.formula}

    Args:
        input: [gate, up] packed along `dim`, `(..., 2 n, ...)`, or the gate alone if `up` is given.
        up: what the gate multiplies, alike in shape, dtype and device.
        dim: the dimension that is halved; without meaning if `up` is given.
        interleaved: whether gate and up alternate along `dim`.
        gate_first: whether the gate comes first; not so in `torch.nn.functional.glu`.
        limit: holds the gate below, and up within +-`limit`; outside, the gradient is 0. As in gpt-oss.
        offset: added to up after it was limited.{told}

    Returns:
        A tensor of shape `(..., n, ...)`, or of the gate's shape if `up` is given; values in {row.range}.

    Raises:
        RuntimeError, IndexError, ValueError, NotImplementedError: as `gated` does.{refused}

    The derivative is, {row.derivative}.
    Good for {row.good_for}; {row.drawback}.
    Source: {row.source}.

    Example:
        >>> import torch, nnkernels.functional as F
        >>> F.{row.name}(torch.zeros(3, 8){needed}).shape
        torch.Size([3, 4])
    """


for _row in catalogue(Gated):
    if _row.name not in by_hand:
        globals()[_row.name] = _make(_row)
        __all__.append(_row.name)
