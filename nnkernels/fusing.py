"""How a call names the activation inside a fused form: a stateless row, its constants by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import torch

from .arguments import number
from .contracts.inner import Inner
from .registry import elementwise


def inner(caller: str, activation: str, constants: Mapping[str, float]) -> Inner:
    """What a call of `caller` with `activation=` and constants by name means.

    Raises:
        ValueError: there is no stateless activation of that name, or it refuses the constants.
        TypeError: a constant that the activation lacks, or one that it needs is missing or no number.
    """
    if not isinstance(activation, str):
        raise TypeError(f"{caller}(): activation must be a name such as 'gelu', got {type(activation).__name__}")
    given = tuple((name, number(caller, name, value)) for name, value in constants.items())
    if torch.compiler.is_compiling():  # which traces through a cache and warns of it
        return _inner.__wrapped__(caller, activation, given)
    return _inner(caller, activation, given, tuple(math.copysign(1.0, value) for _, value in given))


@lru_cache(maxsize=256)
def _inner(caller: str, activation: str, given: tuple[tuple[str, float], ...], signs: tuple[float, ...] = ()) -> Inner:
    """`signs` keeps -0.0 apart from 0.0, which the cache takes for equal."""
    row, constants = elementwise(activation), dict(given)
    for name in constants:
        if name not in row.parameters:
            has = f"its constants are: {', '.join(row.parameters)}" if row.parameters else "it has no constants"
            raise TypeError(f"{caller}(): {activation} has no constant {name!r}; {has}")
    a, b = [*(constants.get(name, default) for name, default in row.parameters.items()), 0.0, 0.0][:2]
    for name, value in zip(row.parameters, (a, b), strict=False):
        if math.isnan(value):
            raise TypeError(f"{caller}(): {activation} needs {name}=, a number, got {constants.get(name, 'nothing')}")
    if row.refuses is not None and (refusal := row.refuses(a, b)) is not None:
        raise refusal
    return Inner(activation, a, b)
