"""Rewrites the tables of docs/benchmarks/ and the README, and its chart, from what was measured on each card.

bash benchmarks/gpu.sh time families      # on the machine with the GPU; then copy its gpu-output/
python benchmarks/overhead.py --forms --json > gpu-output/forms.json
python tools/benchmark_pages.py h200 gpu-output/gpu.json gpu-output/families.json gpu-output/forms.json
python tools/benchmark_pages.py           # from what docs/benchmarks/h100/ and h200/ hold already
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pages

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "docs/benchmarks"
FILES = {"gpu.json": "stateless.json", "families.json": "families.json", "forms.json": "small_calls.json"}
CARDS = ("h100", "h200")
SHOWN_CARD, SMALL_CALLS_CARD = "h100", "h100"
"""Whose figures the README shows, and those of small calls."""
PAGES = [
    ROOT / name
    for name in ("docs/benchmarks/h100.md", "docs/benchmarks/h200.md", "docs/benchmarks/overhead.md", "README.md")
]
SHOWN = {
    "mish": "mish",
    "softsign": "softsign",
    "softmax-32768x4096": "softmax, 4,096 columns",
    "swiglu-packed-16384x16384": "swiglu",
    "apl-4-16384x8192": "APL, 4 segments",
    "bias-gelu-dropout-residual-16384x8192": "bias + gelu + dropout + residual",
    "layer_norm-gelu-16384x4096": "layer norm + gelu",
    "batch-silu-256x64x112x112-last": "batch norm + silu, channels last",
}
"""The cases of the README, and what it calls them."""


def read(card: str, name: str) -> Any:
    return json.loads((KEPT / card / name).read_text())


def measured(card: str) -> list[dict[str, Any]]:
    """Every case of bfloat16 on a card: what it is called, and each side's shares, wall shares and memory."""
    found: dict[str, dict[str, Any]] = {}
    for entry in read(card, "stateless.json")["results"]:
        if entry["dtype"] == "bfloat16":
            case = found.setdefault(entry["activation"], {"name": entry["activation"]})
            side = {"cuda": "ours"}.get(entry["backend"], entry["backend"])
            case[side] = {way: entry[way] for way in ("forward", "backward")}
            case["memory"] = entry["peak_bytes"]["ours"] / entry["peak_bytes"]["eager"]
    for case in read(card, "families.json")["results"]:
        if "peak_bytes" in case["ours"]:
            case["memory"] = case["ours"]["peak_bytes"] / case["eager"]["peak_bytes"]
        found[case["name"]] = case
    return list(found.values())


def cell(case: dict[str, Any], way: str) -> str:
    """Our share of the roofline; in brackets the times as fast as eager and compile; the share by the wall clock."""
    ours = case["ours"]
    if way not in ours:
        return ""
    times = [f"{ours[way] / case[side][way]:.2g}" for side in ("eager", "compile") if way in case.get(side, {})]
    text = f"{ours[way]:.2f} ({' / '.join(times)})"
    wall = ours.get(f"{way}_wall_ms", 0.0)
    if wall > 1.05 * ours.get(f"{way}_ms", wall):
        text += f", wall {ours[way] * ours[f'{way}_ms'] / wall:.2f}"
    return text


def table(cases: list[dict[str, Any]], names: dict[str, str] | None = None) -> str:
    lines = ["| | forward | backward | memory |", "|---|---|---|---|"]
    for case in cases:
        label = names[case["name"]] if names else case["name"]
        if case.get("dtype", "bfloat16") != "bfloat16" and "float32" not in label:
            label += ", float32"
        memory = f"{case['memory']:.2f}" if "memory" in case else ""
        lines.append(f"| {label} | {cell(case, 'forward')} | {cell(case, 'backward')} | {memory} |")
    return "\n".join(lines)


def readme_table() -> str:
    cases = {case["name"]: case for case in measured(SHOWN_CARD)}
    return table([cases[name] for name in SHOWN], SHOWN)


def chart(path: Path) -> None:
    """Forward + backward, as a share of the roofline: eager, torch.compile where it was timed, and ours."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases = {case["name"]: case for case in measured(SHOWN_CARD)}
    figure, axes = plt.subplots(figsize=(8, 4.2), dpi=110)
    colours = {"eager": "#b8c0cc", "compile": "#7f93b2", "ours": "#d1495b"}
    for at, side in enumerate(colours):
        places, shares = [], []
        for place, name in enumerate(SHOWN):
            if side in cases[name]:
                ways = [cases[name][side][way] for way in ("forward", "backward")]
                places.append(place + 0.27 * (at - 1))
                shares.append(len(ways) / sum(1 / share for share in ways))
        label = {"eager": "eager", "compile": "torch.compile", "ours": "nnkernels"}[side]
        axes.barh(places, shares, height=0.25, color=colours[side], label=label)
    axes.set_yticks(range(len(SHOWN)), list(SHOWN.values()))
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel(f"forward and backward, share of what the memory allows ({SHOWN_CARD.upper()}, bfloat16)")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncol=3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def between(text: str, mark: str, new: str) -> str:
    return pages.between(text, mark, "benchmark_pages", new)


def small_calls(device: str) -> str:
    """What a small call costs the host: forward and backward, then forward without gradients."""
    heads = ("", "eager, us", "ours, us", "ratio", "bar", "forward: eager, us", "ours, us", "ratio", "bar")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for entry in read(SMALL_CALLS_CARD, "small_calls.json"):
        if entry["device"] != device:
            continue
        cells = [entry["activation"]]
        for way in ("", "forward_"):
            if f"{way}ratio" not in entry:
                cells += [""] * 4
                continue
            ratio, bar = entry[f"{way}ratio"], entry.get(f"{way}bar", "")
            missed = " (missed)" if bar and round(ratio, 2) > bar else ""
            cells += [
                f"{entry[f'eager_{way}us']:.1f}",
                f"{entry[f'ours_{way}us']:.1f}",
                f"{ratio:.2f}{missed}",
                f"{bar}",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def of_card(card: str, page: str) -> str:
    """The text of a card's page with its tables."""
    cases = measured(card)
    told = read(card, "families.json")
    where = f"{told['device']}, torch {told['torch']}, whose copy moves {told['copy_tb_per_s']:.2f} TB/s"
    page = between(page, "machine", where + ".")
    page = between(page, "stateless", table([case for case in cases if "error" not in case]))
    return between(page, "families", table([case for case in cases if "error" in case]))


def rewritten(*texts: str) -> tuple[str, ...]:
    """The texts of `PAGES` with their tables."""
    *pages_of_cards, overhead, readme = texts
    for device in ("cuda", "cpu"):
        overhead = between(overhead, f"small calls, {device}", small_calls(device))
    cards = [of_card(card, page) for card, page in zip(CARDS, pages_of_cards, strict=True)]
    return *cards, overhead, between(readme, "figures", readme_table())


def main() -> None:
    given = pages.arguments(__doc__, "CARD FILE", least=2)
    for path in map(Path, given[1:]):
        shutil.copyfile(path, KEPT / given[0] / FILES[path.name])
    for file, text in zip(PAGES, rewritten(*(page.read_text() for page in PAGES)), strict=True):
        file.write_text(text)
    chart(KEPT / "shares.png")


if __name__ == "__main__":
    main()
