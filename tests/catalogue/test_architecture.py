"""Modules import what docs/architecture.md lets them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import nnkernels

PACKAGE = Path(nnkernels.__file__).parent
PAGE = (Path(__file__).parents[2] / "docs/architecture.md").read_text()
LAYERS = [line.split() for line in re.search(r"```layers\n(.*?)```", PAGE, re.DOTALL).group(1).splitlines()]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
OUTSIDE = ("__init__", "__main__")


def parts() -> list[str]:
    """The modules and packages right inside nnkernels."""
    found = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    return sorted(found - set(OUTSIDE))


def imported(path: Path) -> set[str]:
    """What of nnkernels a file imports when it is imported itself."""
    package = ("nnkernels", *path.relative_to(PACKAGE).parent.parts)
    found = set()
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.ImportFrom) and statement.level:
            base = (*package[: len(package) - statement.level + 1], *(statement.module or "").split("."))
            base = tuple(filter(None, base))
            names = [alias.name for alias in statement.names] if base == ("nnkernels",) else [base[1]]
            found.update(name for name in names if not name.startswith("__"))
    return found


def test_the_page_names_every_part_once():
    assert sorted(name for names in LAYERS for name in names) == parts()


@pytest.mark.parametrize("part", parts())
def test_a_part_imports_from_its_own_layer_and_those_above(part):
    files = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").exists() else (PACKAGE / part).rglob("*.py")
    for file in files:
        for name in imported(file) - {part}:
            assert LEVEL[name] <= LEVEL[part], f"{file.relative_to(PACKAGE)} imports {name}"
