"""The scaling as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(found: dict[str, Any], path: Path) -> None:
    """Efficiency over processes, the communication that shows, and the feed-forward blocks side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
    figure.suptitle(found["machine"], fontsize=11)
    for (kind, scaling), colour in {
        ("ddp", "weak"): "#1f3b73",
        ("ddp", "strong"): "#9db4d8",
        ("fsdp", "weak"): "#c44e52",
        ("fsdp", "strong"): "#e6a9ab",
    }.items():
        rows = [
            row
            for row in found["models"]
            if row["activations"] == "nnkernels"
            and (row["processes"] == 1 or (row["kind"], row["scaling"]) == (kind, scaling))
        ]
        sizes = [row["processes"] for row in rows]
        label = f"{kind.upper()}, {scaling}"
        left.plot(sizes, [row["efficiency"] for row in rows], "o-", color=colour, label=label)
        middle.plot(sizes, [100 * row["exposed_share"] for row in rows], "o-", color=colour, label=label)
    left.axhline(1, color="black", linewidth=0.7)
    left.set(title="Efficiency", xlabel="processes", ylim=(0, 1.1))
    middle.set(title="Communication not hidden, % of a step", xlabel="processes", ylim=(0, None))
    left.legend(frameon=False, fontsize=8)
    rows = [row for row in found["mlps"] if row["processes"] == max(one["processes"] for one in found["mlps"])]
    places = range(len(rows))[::-1]
    colours = ["#1f3b73" if row["name"].endswith("nnkernels") else "#c44e52" for row in rows]
    right.barh(places, [row["step_seconds"] * 1e3 for row in rows], color=colours, height=0.6)
    right.set_yticks(places, [f"{row['name'].removesuffix(', nnkernels')}, {row['width']}" for row in rows], fontsize=8)
    right.set(title=f"MLPs split over {rows[0]['processes']}: forward + backward", xlabel="ms")
    for axes in (left, middle):
        axes.set_xscale("log", base=2)
        axes.set_xticks(found["sizes"], [str(size) for size in found["sizes"]])
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=110)
