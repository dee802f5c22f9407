"""`nnkernels networks`: each network on real data: what it reaches, what it cannot do, and what something simpler does.

The figures are medians over seeds. The limit is the network's own, on a problem that it is not for.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..cli import missing

if TYPE_CHECKING:
    from ..networks.recipe import Outcome, Recipe
    from ..networks.trials import Learned


def line(recipe: Recipe, outcome: Outcome) -> tuple[str, ...]:
    """The row's cells in the order of `HEAD`."""
    metric, other = recipe.metric, recipe.contrast.metric or recipe.metric
    at_least, at_most = ">=" if metric.higher else "<=", "<=" if other.higher else ">="
    marks = ("" if outcome.reached else " MISSED", "" if outcome.limited else " EXCEEDED")
    return (
        recipe.name,
        recipe.problem,
        f"{metric.shown(outcome.value)} {metric.name} ({at_least} {metric.shown(recipe.threshold)}){marks[0]}",
        f"{recipe.contrast.problem}: {other.shown(outcome.limit)} {other.name} ({at_most} "
        f"{other.shown(recipe.contrast.bound)}){marks[1]}",
        f"{outcome.seconds:.1f}",
        f"{metric.shown(outcome.baseline)} {recipe.baseline.name}",
    )


HEAD = ("recipe", "problem", "result", "limit", "seconds", "baseline")


def show(cells: Sequence[str]) -> None:
    print(f"{cells[0]:16} {cells[1]:40} {cells[2]:34} {cells[3]:64} {cells[4]:>7}  {cells[5]}", flush=True)


def picture(recipe: Recipe, path: Path, learned: Learned) -> None:
    """What a recipe learned, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    assert recipe.picture is not None
    figure = plt.figure(figsize=(8, 5), layout="constrained")
    recipe.picture(learned, figure)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def run(args: argparse.Namespace) -> int:
    needed = ("sklearn", "torchmetrics", *(("matplotlib",) if args.pictures else ()))
    if (name := missing(*needed)) is not None:
        print(f"nnkernels networks needs {name}; run: pip install 'nnkernels[networks]'", file=sys.stderr)
        return 2
    from ..networks.recipe import measured
    from ..networks.recipes import RECIPES, recipe

    try:
        chosen = [recipe(name) for name in dict.fromkeys(args.only or ())]
    except ValueError as error:
        print(f"nnkernels networks: {error}", file=sys.stderr)
        return 2
    chosen = chosen or [row for row in RECIPES.values() if args.all or not row.slow]
    if args.pictures:
        args.pictures.mkdir(parents=True, exist_ok=True)
    show(HEAD)
    outcomes = []
    for row in chosen:
        seeds = row.seeds if args.seeds is None else range(args.seeds)
        each = partial(picture, row, args.pictures / f"{row.name}.png") if args.pictures and row.picture else None
        try:
            outcome = measured(row, seeds, each)
        except RuntimeError as error:  # data that needs a package
            print(f"nnkernels networks: {row.name}: {error}", file=sys.stderr)
            return 2
        show(line(row, outcome))
        outcomes.append(outcome)
    if args.json is not None:
        args.json.write_text(json.dumps([dataclasses.asdict(one) for one in outcomes], indent=1) + "\n")
    if len(chosen) < len(RECIPES) and not args.only:
        print(f"{len(RECIPES) - len(chosen)} more are slow: --all runs them too", file=sys.stderr)
    return int(not all(outcome.good for outcome in outcomes))
