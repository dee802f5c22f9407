"""Rewrites the table of docs/activations.md from the catalogue.

python tools/activations_table.py
"""

from __future__ import annotations

from pathlib import Path

from nnkernels.registry import Activation, catalogue

PAGE = Path(__file__).resolve().parent.parent / "docs/activations.md"
BEGIN, END = "<!-- activations: written by tools/activations_table.py -->", "<!-- end of activations -->"


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
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
