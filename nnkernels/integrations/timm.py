"""Our activations behind the names of timm's `create_act_layer`, `get_act_layer` and `get_act_fn`.

timm looks a name up in its table of memory-efficient versions first, unless a model is to be scripted or exported. Ours
stand in that table alone, so that scripting and exporting meet what timm has.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from .. import functional, nn
from ..registry import elementwise

NAMES = {
    "silu": "silu",
    "swish": "silu",
    "mish": "mish",
    "relu": "relu",
    "relu6": "relu6",
    "leaky_relu": "leaky_relu",
    "elu": "elu",
    "celu": "celu",
    "selu": "selu",
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",
    "quick_gelu": "gelu_sigmoid",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "hard_sigmoid": "hardsigmoid",
    "hardsigmoid": "hardsigmoid",
    "hard_swish": "hardswish",
    "hardswish": "hardswish",
    "hard_mish": "hardmish",
}
"""timm's names, and the catalogue's for the same functions."""

_MISSING = object()
_replaced: list[tuple[dict[str, Any], dict[str, Any]]] = []


def register() -> dict[str, Any]:
    """Makes timm build our modules, and find our functions, for the names in `NAMES`.

    It holds for models that are built afterwards, until `unregister`. To register again changes nothing.

    Returns:
        The layers that timm's `get_act_layer` gave before, by name.

    Raises:
        ImportError: timm is missing, or has no tables of activations where they are looked for.

    Example:
        >>> import timm, nnkernels
        >>> import nnkernels.integrations.timm as integration
        >>> replaced = integration.register()
        >>> isinstance(timm.layers.create_act_layer("silu", inplace=True), nnkernels.nn.SiLU)
        True
        >>> integration.unregister()
        >>> timm.layers.create_act_layer("silu").__class__.__module__
        'torch.nn.modules.activation'
    """
    create_act, layers, functions = _tables()
    unregister()
    before = {name: create_act.get_act_layer(name) for name in NAMES}
    for table, ours in ((layers, _layer), (functions, _function)):
        _replaced.append((table, {name: table.get(name, _MISSING) for name in NAMES}))
        table.update({name: ours(row) for name, row in NAMES.items()})
    return before


def unregister() -> None:
    """Puts back what `register` has replaced; models that were built keep their modules."""
    while _replaced:
        table, before = _replaced.pop()
        for name, value in before.items():
            table.pop(name, None)
            if value is not _MISSING:
                table[name] = value


def _tables() -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """timm's module, and its tables of memory-efficient layers and functions."""
    try:
        from timm.layers import create_act
    except ImportError as error:
        raise ImportError("nnkernels.integrations.timm needs timm; run: pip install timm", name="timm") from error
    try:
        return create_act, create_act._ACT_LAYER_ME, create_act._ACT_FN_ME
    except AttributeError as error:
        import timm

        raise ImportError(f"timm {timm.__version__} keeps its activations elsewhere: {error}", name="timm") from error


def _layer(row: str) -> Callable[..., Any]:
    return _taking_inplace(getattr(nn, elementwise(row).module))


def _function(row: str) -> Callable[..., Any]:
    return _taking_inplace(getattr(functional, row))


def _taking_inplace(ours: Callable[..., Any]) -> Callable[..., Any]:
    """`ours`, which timm calls with `inplace=`: where it writes nothing in place, the argument is dropped."""
    if "inplace" in inspect.signature(ours).parameters:
        return ours

    @wraps(ours, updated=())
    def called(*args: Any, inplace: bool = False, **kwargs: Any) -> Any:
        return ours(*args, **kwargs)

    return called
