"""Writes nnkernels/functional/__init__.pyi and nnkernels/nn/__init__.pyi: what type checkers know of made functions.

python tools/stubs.py
"""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from types import ModuleType
from typing import Any

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


def written_by_hand(public: Any) -> bool:
    """Whether the source of the module says `def` or `class` of it."""
    keyword = "class" if inspect.isclass(public) else "def"
    source = inspect.getsource(inspect.getmodule(public) or public)
    return f"\n{keyword} {public.__name__}(" in source


def imports(package: ModuleType, made: set[str]) -> list[str]:
    """An import line for each family's names that are written by hand."""
    lines = []
    for family in package._FAMILIES:
        home = family.__name__.rpartition(".")[2]
        own = {name for name in family.__all__ if getattr(package, name).__module__ == family.__name__}
        names = sorted((own if home != "alpha_dropout" else set(family.__all__)) - made)
        if home == "elementwise":
            names.append("function_of" if package is functional else "module_of")
        lines.append(f"from .{home} import (\n" + "".join(f"    {name} as {name},\n" for name in names) + ")")
    return sorted(lines)


def functions() -> str:
    rows = [row for row in catalogue(Activation) if not written_by_hand(getattr(functional, row.name))]
    lines, made = [], set()
    for row in rows:
        lines.append(f"def {row.name}({parameters(row, 'input: Tensor', ('inplace',))}) -> Tensor: ...")
        made.add(row.name)
        if row.inplace:
            lines.append(f"def {row.name}_({parameters(row, 'input: Tensor')}) -> Tensor: ...")
            made.add(f"{row.name}_")
    return "\n".join([MADE, "from torch import Tensor", "", *imports(functional, made), "", ALL, "", *lines, ""])


def modules() -> str:
    rows = [row for row in catalogue(Activation) if not written_by_hand(getattr(nn, row.module))]
    lines = []
    for row in rows:
        base = f"torch.nn.{row.module}" if hasattr(torch.nn, row.module) else "torch.nn.Module"
        signature = parameters(row, "self", ("inplace", "saving"))
        lines += [f"class {row.module}({base}):", f"    def __init__(self{signature[4:]}) -> None: ...", ""]
    heads = imports(nn, {row.module for row in rows})
    return "\n".join([MADE, "import torch", "", *heads, "", ALL, "", *lines])


def stubs() -> dict[Path, str]:
    return {PACKAGE / "functional/__init__.pyi": functions(), PACKAGE / "nn/__init__.pyi": modules()}


if __name__ == "__main__":
    for path, text in stubs().items():
        path.write_text(text)
