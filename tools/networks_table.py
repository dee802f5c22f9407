"""Writes measured recipes into docs/benchmarks/networks.json, and from all in there the table of docs/networks.md.

nnkernels networks --all --json measured.json && python tools/networks_table.py measured.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from nnkernels.commands.networks import HEAD, line
from nnkernels.networks.recipe import Outcome
from nnkernels.networks.recipes import RECIPES

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, KEPT = DOCS / "networks.md", DOCS / "benchmarks" / "networks.json"
BEGIN, END = "<!-- networks: written by tools/networks_table.py -->", "<!-- end of networks -->"


def outcomes(path: Path = KEPT) -> dict[str, Outcome]:
    """What was measured, by recipe, in the recipes' order; those that are no longer there are left out."""
    found = {one["recipe"]: Outcome(**one) for one in json.loads(path.read_text())}
    return {name: found[name] for name in RECIPES if name in found}


def table(measured: dict[str, Outcome]) -> str:
    lines = [f"| network | paper | {' | '.join(HEAD)} |", "|---" * (len(HEAD) + 2) + "|"]
    for name, outcome in measured.items():
        recipe = RECIPES[name]
        lines.append(f"| {' | '.join((recipe.network, recipe.paper, *line(recipe, outcome)))} |")
    return "\n".join(lines)


def rewritten(text: str, measured: dict[str, Outcome]) -> str:
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table(measured)}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    kept = outcomes()
    for path in sys.argv[1:]:
        kept |= outcomes(Path(path))
    rows = [vars(kept[name]) for name in RECIPES if name in kept]
    KEPT.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    PAGE.write_text(rewritten(PAGE.read_text(), outcomes()))
