"""Puts together the folder that Hugging Face's kernel-builder makes a kernel of: `hub/` and the sources that it needs.

python tools/hub_kernel.py [FOLDER]      # build/hub; then `nix run .#build-and-copy` in there

Sources are those that `hub/torch-ext/nnkernels` imports, and what they import in turn, wherever in a file they do; of
folders whose files are found instead of being imported by name, families and backends, all are taken.
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pages

ROOT = Path(__file__).parents[1]
PACKAGE, HUB = ROOT / "nnkernels", ROOT / "hub"
FOUND = ("contracts", "functional", "triton", "reference")
DATA = ("crossovers.json",)


def imported(file: Path, package: Path) -> Iterator[Path]:
    """What `file`, which lies in `package` or stands for a file there, imports of our own: files that may not exist."""
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package
        for _ in range(node.level - 1):
            base = base.parent
        base = base.joinpath(*(node.module or "").split(".")) if node.module else base
        for place in (base, *(base / alias.name for alias in node.names)):
            yield from (place.with_suffix(".py"), place / "__init__.py")


def sources(first: Iterable[Path]) -> set[Path]:
    """The files of our package that `first`, which stand at its root, need."""
    own = PACKAGE / "__init__.py"  # hub/ has another in its place
    waiting = [found for file in first for found in imported(file, PACKAGE)]
    waiting += [file for folder in FOUND for file in (PACKAGE / folder).glob("*.py")]
    needed: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file in needed or file == own or not file.is_file():
            continue
        needed.add(file)
        waiting += [*imported(file, file.parent), file.parent / "__init__.py"]
    return needed


def assemble(folder: Path) -> Path:
    """Writes the folder, which must not be there or be empty, and returns it."""
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; remove it first")
    shutil.copytree(HUB, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "LICENSE", folder)
    package = folder / "torch-ext" / PACKAGE.name
    for file in (*sources((HUB / "torch-ext" / PACKAGE.name).glob("*.py")), *(PACKAGE / name for name in DATA)):
        to = package / file.relative_to(PACKAGE)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, to)
    return folder


if __name__ == "__main__":
    given = pages.arguments(__doc__, "FOLDER")
    print(assemble(Path(given[0]) if given else ROOT / "build" / "hub"))
