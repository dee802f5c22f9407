"""The family's formulas by name. A new activation needs three functions: `<name>_value`, `<name>_d1`, `<name>_d2`."""

from __future__ import annotations

from typing import NamedTuple

from triton.runtime import JITFunction

from . import derived, gates, piecewise, smooth


class Formula(NamedTuple):
    """An activation and its two derivatives as `@triton.jit` functions of (x, a, b, FAST)."""

    value: JITFunction
    d1: JITFunction
    d2: JITFunction


def _formulas() -> dict[str, Formula]:
    functions = vars(piecewise) | vars(smooth) | vars(gates) | vars(derived)
    names = [name.removesuffix("_value") for name in functions if name.endswith("_value") and name[0] != "_"]
    return {name: Formula(*(functions[f"{name}_{part}"] for part in Formula._fields)) for name in names}


FORMULAS = _formulas()
