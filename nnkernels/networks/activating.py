"""Any activation of the catalogue as a layer of a network, and the right initial weights behind it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial

import torch

from .. import functional, nn
from ..initialization import init_for
from ..registry import Activation, Gated, Reducing, Row, activation


def constants(name: str) -> dict[str, float]:
    """The activation's constants: its defaults, and 0 where it has none (`threshold`, which so becomes the ReLU)."""
    row = activation(name)
    given = row.parameters if isinstance(row, Activation) else {}
    return {constant: 0.0 if math.isnan(value) else value for constant, value in given.items()}


def features_in(name: str) -> int:
    """How many features the activation takes for each one it gives: 2 for gated ones and Maxout, else 1.

    Example:
        >>> from nnkernels.networks.activating import features_in
        >>> features_in("swiglu"), features_in("mish")
        (2, 1)
    """
    row = activation(name)
    return 2 if isinstance(row, Gated) else int(_initial(row).get("num_pieces", 1))


def _initial(row: Row) -> dict[str, float]:
    """The arguments of the row's module for which its initial gain is known."""
    return dict(row.moment.constants) if row.moment else {}


def layer(name: str, dim: int = 1) -> torch.nn.Module:
    """The activation as a module, for inputs whose features lie along `dim`.

    Args:
        name: any name of the catalogue.
        dim: the dimension of the features, along which gated activations, Maxout and the softmaxes work.

    Returns:
        A module that takes `(..., features_in(name) * n, ...)` to `(..., n, ...)`.

    Raises:
        ValueError: the catalogue has no such name; the message lists those it has.

    Example:
        >>> import torch
        >>> from nnkernels.networks.activating import layer
        >>> layer("swiglu", dim=1)(torch.zeros(2, 8)).shape
        torch.Size([2, 4])
    """
    row = activation(name)
    module = getattr(nn, row.module)
    given = constants(name) | _initial(row) | ({"dim": dim} if isinstance(row, Gated | Reducing) else {})
    for parameter in inspect.signature(module).parameters.values():
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            given.setdefault(parameter.name, 1)  # the number of channels: one set of parameters for all of them
    return module(**given)


def function(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The activation as a function of its input alone, with `constants(name)`.

    Args:
        name: an elementwise name of the catalogue.

    Raises:
        ValueError: the catalogue has no such name, or it is not elementwise without parameters.

    Example:
        >>> import torch
        >>> from nnkernels.networks.activating import function
        >>> function("threshold")(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """
    row = activation(name)
    if not isinstance(row, Activation):
        raise ValueError(f"{name!r} is no elementwise activation without parameters")
    return partial(getattr(functional, name), **constants(name))


def initialise(weighted: torch.nn.Linear | torch.nn.Conv1d | torch.nn.Conv2d, behind: str, scale: float = 1.0) -> None:
    """Fills the weights of a layer whose input comes out of the activation `behind`; biases become 0.

    Args:
        weighted: the layer.
        behind: an activation, or "linear" for none.
        scale: what the weights are multiplied by.
    """
    init_for(behind, *(constants(behind).values() if behind != "linear" else ()))(weighted.weight)
    with torch.no_grad():
        weighted.weight.mul_(scale)
        if weighted.bias is not None:
            weighted.bias.zero_()
