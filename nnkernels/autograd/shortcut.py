"""Public functions whose plain calls go past them, once they are known to end in one plan of the C++ node."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from . import node

P = ParamSpec("P")
R = TypeVar("R")

_begin_anew: list[Callable[[], None]] = []


def shortcut(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, whose calls are remembered from the fourth of a kind on, and from then on enter no Python.

    Two calls are of one kind if the function could not tell them apart by their arguments, but for the elements of
    tensors, and by torch's modes. A call is remembered if it did no more than give its own tensors to one form
    (`route.call`) and return its value; so `function` must have no effect besides, and read no tensor's elements.
    """
    if node.module is None:
        return function
    direct = node.module.shortcut(function)

    def begin_anew() -> None:
        nonlocal direct
        direct = node.module.shortcut(function)

    _begin_anew.append(begin_anew)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if node.serves and not torch.compiler.is_compiling():
            return direct(*args, **kwargs)
        return function(*args, **kwargs)

    return call


def forget() -> None:
    """No call is remembered any more: each is again what the functions make of it, until it has come often enough."""
    for begin_anew in _begin_anew:
        begin_anew()
