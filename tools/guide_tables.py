"""Writes the tables of docs/guide.md and docs/pt-BR/guia.md from the catalogue and the recipes.

Their texts are English; only the heads are translated.

python tools/guide_tables.py
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pages import arguments, between

import nnkernels
from nnkernels.networks.recipes import RECIPES

DOCS = Path(__file__).resolve().parent.parent / "docs"
HEADS = {
    DOCS / "guide.md": {
        "activations": ("activation", "good for", "drawback"),
        "networks": ("network", "recipe", "solves", "does not solve"),
    },
    DOCS / "pt-BR/guia.md": {
        "activations": ("ativação", "serve para", "desvantagem"),
        "networks": ("rede", "receita", "resolve", "não resolve"),
    },
}
"""What each page calls the columns of each of its tables."""


def rows() -> dict[str, list[tuple[str, ...]]]:
    """The cells below the heads: every activation, and every network in the guide's order."""
    activations = map(nnkernels.activation, nnkernels.activations())
    return {
        "activations": [(f"`{row.name}`", row.good_for, row.drawback) for row in activations],
        "networks": [(row.network, f"`{row.name}`", row.problem, row.contrast.problem) for row in RECIPES.values()],
    }


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def rewritten(text: str, heads: dict[str, tuple[str, ...]]) -> str:
    for name, body in rows().items():
        table = "\n".join([line(heads[name]), "|---" * len(heads[name]) + "|", *map(line, body)])
        text = between(text, name, "guide_tables", table)
    return text


if __name__ == "__main__":
    arguments(__doc__)
    for page, heads in HEADS.items():
        page.write_text(rewritten(page.read_text(), heads))
