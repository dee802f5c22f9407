"""Rewrites the table of gains in docs/initialization.md.

python tools/initialization_table.py
"""

from __future__ import annotations

from pathlib import Path

from pages import arguments, between

from nnkernels.gallery.drawings import required_of
from nnkernels.initialization import has_gain, init_for
from nnkernels.registry import catalogue

PAGE = Path(__file__).resolve().parent.parent / "docs/initialization.md"


def table() -> str:
    lines = ["| activation | gain | sensitivity |", "|---|---|---|"]
    for row in catalogue():
        if not has_gain(row):
            continue
        constants = required_of(row)
        shown = f"{row.name}({', '.join(f'{constant:g}' for constant in constants)})" if constants else row.name
        init = init_for(row.name, *constants)
        lines.append(f"| `{shown}` | {init.gain:.4f} | {init.sensitivity:.2f} |")
    return "\n".join(lines)


def rewritten(text: str) -> str:
    return between(text, "gains", "initialization_table", table())


if __name__ == "__main__":
    arguments(__doc__)
    PAGE.write_text(rewritten(PAGE.read_text()))
