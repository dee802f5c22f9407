"""Writes the tables of docs/models.md: what `optimize` knows, and what whole models gain on each card.

python benchmarks/models.py --out models.json && python tools/models_table.py h200 models.json    # or several files
python tools/models_table.py               # from what docs/benchmarks/ keeps
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from pages import arguments, between

from nnkernels.optimizing import adapting

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, KEPT = DOCS / "models.md", DOCS / "benchmarks"
WAYS = {
    "eager": "eager", "optimize": "optimised", "recompute": "optimised and recomputing", "compile": "compiled",
    "both": "optimised and compiled",
}  # fmt: skip


def adapters() -> str:
    """One row for each library: the classes by which its adapters are known."""
    for library in adapting.LIBRARIES:
        importlib.import_module(f"nnkernels.optimizing.libraries.{library}")
    lines = ["| library | classes, and others with the same forward |", "|---|---|"]
    lines.append(
        "| torch | `Sequential`: a norm or linear layer and the activation behind it; "
        "batch, layer, group and rms norm alone |"
    )
    for library in adapting.LIBRARIES[1:]:
        known = [name.rpartition(".")[2] for name in sorted(adapting.named_sources()) if name.startswith(f"{library}.")]
        lines.append(f"| {library} | {', '.join(f'`{name}`' for name in sorted(known))} |")
    return "\n".join(lines)


def row(name: str, found: dict[str, Any]) -> str:
    step, latency, ready = found["step_ms"], found["latency_ms"], found["ready_s"]
    cells = [name, str(found["batch"]), _numbers(step, ".1f"), f"**{step['eager'] / step['optimize']:.2f}**"]
    cells += [_numbers(found["peak_gib"], ".1f"), f"{latency['eager']:.1f} / {latency['optimize']:.1f}"]
    cells += [" / ".join(f"{ready[when]:.0f}" for when in ("optimize", "again") if when in ready)]
    return f"| {' | '.join(cells)} |"


def _numbers(found: dict[str, float], how: str) -> str:
    return " / ".join(f"{found[label]:{how}}" if label in found else "-" for label in WAYS)


def models() -> str:
    """A table for each card."""
    return "\n\n".join(table(json.loads(kept.read_text())) for kept in sorted(KEPT.glob("*/models.json"), reverse=True))


def table(measured: dict[str, Any]) -> str:
    head = ["model", "batch", "step, ms", "optimised, times as fast", "peak, GiB"]
    head += ["latency at batch 1, ms, before / after", "ready, s, first / again"]
    lines = [f"{measured['device']}, torch {measured['torch']}, a training step under bfloat16 autocast, "]
    lines[0] += f"{' / '.join(WAYS.values())}:"
    lines += [""]
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join(lines + [row(name, found) for name, found in measured["models"].items()])


def rewritten(page: str) -> str:
    page = between(page, "adapters", "models_table", adapters())
    return between(page, "models", "models_table", models())


if __name__ == "__main__":
    if given := arguments(__doc__, "CARD FILE", least=2):
        card, first, *others = (given[0], *(json.loads(Path(name).read_text()) for name in given[1:]))
        for other in others:
            if any(other[name] != first[name] for name in ("device", "torch")):
                raise SystemExit(f"one table is of one machine: {first['device']}, torch {first['torch']}")
            first["models"] |= other["models"]
        (KEPT / card / "models.json").write_text(json.dumps(first, indent=1) + "\n")
    PAGE.write_text(rewritten(PAGE.read_text()))
