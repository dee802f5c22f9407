"""Rewrites the table of docs/compiled.md: the worst errors of compiled calls over the whole range, ours and torch's.

python tools/compiled_table.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from pages import arguments, between

from nnkernels import compiling
from nnkernels.benchmark import ours
from nnkernels.counterparts import peer
from nnkernels.registry import Activation, catalogue

PAGE = Path(__file__).parent.parent / "docs/compiled.md"
START, END = "<!-- errors: written by tools/compiled_table.py -->", "<!-- end of errors -->"
HEAD = "| | value | gradient | near the gradient's root | torch's value | torch's gradient |\n|---|---|---|---|---|---|"


def told(page: str | None = None) -> dict[str, tuple[float, float]]:
    """The worst errors of value and gradient that the page tells, by name."""
    text = (PAGE.read_text() if page is None else page).split(START)[1].split(END)[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    return {name.strip("`"): (float(value.split()[0]), float(d1.split()[0])) for name, value, d1, *_ in rows}


def measured() -> dict[str, tuple[compiling.Found, compiling.Found | None]]:
    """The worst errors of each row, and of torch's own function or composition where it has one."""
    rows, x = catalogue(Activation), compiling.inputs(torch.float32)
    theirs = {row: function for row in rows if (function := peer(row)) is not None}
    mine = dict(zip(rows, compiling.run([ours(row) for row in rows], x), strict=True))
    torchs = dict(zip(theirs, compiling.run(list(theirs.values()), x), strict=True))
    return {
        row.name: (
            compiling.judge(row, x, *mine[row]),
            compiling.judge(row, x, *torchs[row]) if row in torchs else None,
        )
        for row in rows
    }


def line(name: str, found: compiling.Found, theirs: compiling.Found | None) -> str:
    cells = [found.value, found.d1, found.near_root or "", *((theirs.value, theirs.d1) if theirs else ("", ""))]
    return f"| `{name}` | " + " | ".join(map(str, cells)) + " |"


def table() -> str:
    return "\n".join([HEAD, *(line(name, *pair) for name, pair in measured().items())])


def rewritten(page: str) -> str:
    return between(page, "errors", "compiled_table", table())


if __name__ == "__main__":
    arguments(__doc__)
    PAGE.write_text(rewritten(PAGE.read_text()))
