"""Rewrites the table of docs/activations.md from the catalogue.

python tools/activations_table.py
"""

from __future__ import annotations

from pathlib import Path

from pages import arguments, between

from nnkernels.registry import Activation, catalogue

PAGE = Path(__file__).resolve().parent.parent / "docs/activations.md"


def table() -> str:
    lines = ["| function | module | formula | range | source |", "|---|---|---|---|---|"]
    for row in catalogue():
        parameters = row.parameters if isinstance(row, Activation) else {}
        signature = ", ".join(f"{name}={value:g}" if value == value else name for name, value in parameters.items())
        cells = (
            f"`{row.name}({signature})`" if signature else f"`{row.name}`",
            f"`{row.module}`",
            row.formula,
            row.range,
            row.source,
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def rewritten(text: str) -> str:
    return between(text, "activations", "activations_table", table())


if __name__ == "__main__":
    arguments(__doc__)
    PAGE.write_text(rewritten(PAGE.read_text()))
