"""Writes nnkernels/functional/__init__.pyi and nnkernels/nn/__init__.pyi: what type checkers know of made functions.

python tools/stubs.py
"""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pages
import torch

from nnkernels import functional, nn
from nnkernels.registry import Activation, catalogue

PACKAGE = Path(nn.__file__).parents[1]
ALL = "__all__: list[str]"
MADE = '"""Written by tools/stubs.py from the catalogue."""\n'


def parameters(row: Activation, first: str, flags: tuple[str, ...] = ()) -> str:
    constants = [f"{name}: float{'' if math.isnan(default) else ' = ...'}" for name, default in row.parameters.items()]
    inplace = ["inplace: bool = ..."] if row.inplace and "inplace" in flags else []
    return ", ".join([first, *constants, *inplace, *(["*", "saving: str | None = ..."] if "saving" in flags else [])])


def annotated(signature: inspect.Signature) -> str:
    """The parameters as in the source of a function with annotations, without the values of defaults."""
    shown = []
    for one in signature.parameters.values():
        if one.kind is one.KEYWORD_ONLY and "*" not in shown:
            shown.append("*")
        shown.append(f"{one.name}: {one.annotation}{'' if one.default is one.empty else ' = ...'}")
    return ", ".join(shown)


def written_by_hand(public: Any) -> bool:
    """Whether the source of the module says `def` or `class` of it."""
    keyword = "class" if inspect.isclass(public) else "def"
    source = inspect.getsource(inspect.getmodule(public) or public)
    return f"\n{keyword} {public.__name__}(" in source


def of_families(package: ModuleType, made: set[str]) -> tuple[list[str], list[str]]:
    """An import line for each family's names that are written by hand, and the names that are made from other rows."""
    lines, others = [], []
    for family in package._FAMILIES:
        home = family.__name__.rpartition(".")[2]
        own = {name for name in family.__all__ if getattr(package, name).__module__ == family.__name__}
        names = sorted((own if home != "alpha_dropout" else set(family.__all__)) - made)
        by_hand = [name for name in names if home == "alpha_dropout" or written_by_hand(getattr(package, name))]
        others += [name for name in names if name not in by_hand]
        if home == "elementwise":
            by_hand.append("function_of" if package is functional else "module_of")
        if by_hand:
            lines.append(f"from .{home} import (\n" + "".join(f"    {name} as {name},\n" for name in by_hand) + ")")
    return sorted(lines), others


def functions() -> str:
    rows = [row for row in catalogue(Activation) if not written_by_hand(getattr(functional, row.name))]
    lines, made = [], set()
    for row in rows:
        lines.append(f"def {row.name}({parameters(row, 'input: Tensor', ('inplace',))}) -> Tensor: ...")
        made.add(row.name)
        if row.inplace:
            lines.append(f"def {row.name}_({parameters(row, 'input: Tensor')}) -> Tensor: ...")
            made.add(f"{row.name}_")
    heads, others = of_families(functional, made)
    for name in others:
        lines.append(f"def {name}({annotated(inspect.signature(getattr(functional, name)))}) -> Tensor: ...")
    return "\n".join([MADE, "from torch import Tensor", "", *heads, "", ALL, "", *lines, ""])


def modules() -> str:
    rows = [row for row in catalogue(Activation) if not written_by_hand(getattr(nn, row.module))]
    lines = []
    for row in rows:
        base = f"torch.nn.{row.module}" if hasattr(torch.nn, row.module) else "torch.nn.Module"
        signature = parameters(row, "self", ("inplace", "saving"))
        lines += [f"class {row.module}({base}):", f"    def __init__(self{signature[4:]}) -> None: ...", ""]
    heads, others = of_families(nn, {row.module for row in rows})
    for name in others:
        made = getattr(nn, name)
        base = next(one.__name__ for one in made.__mro__[1:] if one.__name__[0] != "_")
        given = annotated(inspect.signature(made))
        lines += [
            f"class {name}({base if base in nn.__all__ else 'torch.nn.Module'}):",
            f"    def __init__(self, {given}) -> None: ...",
            "",
        ]
    return "\n".join([MADE, "import torch", "", *heads, "", ALL, "", *lines])


def stubs() -> dict[Path, str]:
    return {PACKAGE / "functional/__init__.pyi": functions(), PACKAGE / "nn/__init__.pyi": modules()}


if __name__ == "__main__":
    pages.arguments(__doc__)
    for path, text in stubs().items():
        path.write_text(text)
