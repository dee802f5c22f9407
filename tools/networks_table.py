"""Keeps what was measured of recipes in docs/benchmarks/networks/, and writes the table of docs/networks.md from it.

nnkernels networks --all --json measured.json && python tools/networks_table.py measured.json
"""

from __future__ import annotations

import json
from pathlib import Path

from pages import arguments, between

from nnkernels.commands.networks import HEAD, line
from nnkernels.networks.recipe import Outcome
from nnkernels.networks.recipes import RECIPES

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, KEPT = DOCS / "networks.md", DOCS / "benchmarks" / "networks"


def outcomes() -> dict[str, Outcome]:
    """What was measured, by recipe, in the recipes' order: each has a file of its own."""
    files = {name: KEPT / f"{name}.json" for name in RECIPES}
    return {name: Outcome(**json.loads(file.read_text())) for name, file in files.items() if file.exists()}


def table(measured: dict[str, Outcome]) -> str:
    lines = [f"| network | paper | {' | '.join(HEAD)} |", "|---" * (len(HEAD) + 2) + "|"]
    for name, outcome in measured.items():
        recipe = RECIPES[name]
        lines.append(f"| {' | '.join((recipe.network, recipe.paper, *line(recipe, outcome)))} |")
    return "\n".join(lines)


def rewritten(text: str, measured: dict[str, Outcome]) -> str:
    return between(text, "networks", "networks_table", table(measured))


if __name__ == "__main__":
    for path in arguments(__doc__, "FILE"):
        for one in json.loads(Path(path).read_text()):
            (KEPT / f"{one['recipe']}.json").write_text(json.dumps(one, indent=1) + "\n")
    PAGE.write_text(rewritten(PAGE.read_text(), outcomes()))
