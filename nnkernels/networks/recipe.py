"""A recipe: one network on real data, what it has to reach, what it cannot do, and what something simpler reaches.

A row drives a test, a line of `nnkernels networks` and of docs/networks.md, and `nnkernels train --recipe NAME`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .trials import Learned, Trial


@dataclass(frozen=True)
class Metric:
    """A number that something is judged by.

    Attributes:
        name: as people call it.
        higher: whether more is better.
        form: how the number is shown.
    """

    name: str
    higher: bool
    form: str = "{:.4g}"

    def reaches(self, value: float, threshold: float) -> bool:
        """Whether a value is as good as the threshold, or better."""
        return value >= threshold if self.higher else value <= threshold

    def limited(self, value: float, bound: float) -> bool:
        """Whether a value is as bad as the bound, or worse; what is no number is."""
        return not (value > bound if self.higher else value < bound)

    def shown(self, value: float) -> str:
        return self.form.format(value)


ACCURACY = Metric("accuracy", True, "{:.1%}")
R2 = Metric("R2", True, "{:.3f}")
BITS = Metric("bits per character", False, "{:.3f}")
AUROC = Metric("AUROC", True, "{:.3f}")
MSE = Metric("mean square error", False, "{:.2g}")


@dataclass(frozen=True)
class Contrast:
    """What the network cannot do: the same, tried on what it is not for.

    Attributes:
        problem: in one line.
        trial: what is tried.
        bound: it does no better.
        metric: of the trial, where it is another than the recipe's.
    """

    problem: str
    trial: Trial
    bound: float
    metric: Metric | None = None


@dataclass(frozen=True)
class Baseline:
    """Something simpler, of scikit-learn or plain torch, on the recipe's problem, judged by the recipe's metric."""

    name: str
    trial: Trial


@dataclass(frozen=True)
class Recipe:
    """One row.

    Attributes:
        name: of the recipe; `nnkernels train --recipe NAME`.
        network: which of the guide's networks it is, a name of `GUIDE`.
        paper: author and year.
        problem: what it solves, in one line.
        trial: what is tried: `Trained`, `Fitted`, or anything with their `run`.
        metric: what the trial's number is.
        threshold: that a test demands: the measured median less 3 points, or 1.5 times the error; more only where seeds
            differ by more.
        contrast: its true limit.
        baseline: what it is compared with.
        slow: whether trial and contrast together need more than 15 s of one core.
        seeds: whose median is stated.
        picture: draws what was learned, if there is something to see: takes the `Learned` and an empty figure of
            matplotlib.
    """

    name: str
    network: str
    paper: str
    problem: str
    trial: Trial
    metric: Metric
    threshold: float
    contrast: Contrast
    baseline: Baseline
    slow: bool = False
    seeds: tuple[int, ...] = (0, 1, 2)
    picture: Callable[[Learned, Any], None] | None = None


@dataclass(frozen=True)
class Outcome:
    """What was measured of a recipe, each number the median over seeds.

    Attributes:
        recipe: its name.
        value: of its trial.
        limit: of its contrast.
        baseline: of its baseline.
        seconds: of one core, for one trial.
        reached: whether the trial reached the threshold.
        limited: whether the contrast did no better than its bound.
        seeds: how many there were.
    """

    recipe: str
    value: float
    limit: float
    baseline: float
    seconds: float
    reached: bool
    limited: bool
    seeds: int

    @property
    def good(self) -> bool:
        return self.reached and self.limited


def tried(trial: Trial, seed: int) -> Learned:
    """One trial, which leaves nothing behind."""
    with tempfile.TemporaryDirectory() as folder:
        return trial.run(seed, Path(folder))


def measured(
    recipe: Recipe, seeds: Sequence[int] | None = None, each: Callable[[Learned], None] | None = None
) -> Outcome:
    """Tries the recipe, its contrast and its baseline.

    Args:
        recipe: the row.
        seeds: instead of the recipe's own.
        each: is told what the recipe's trial learned, of each seed.
    """
    seeds = recipe.seeds if seeds is None else seeds
    values, seconds = [], []
    for seed in seeds:
        begun = time.process_time()
        learned = tried(recipe.trial, seed)
        seconds.append(time.process_time() - begun)
        values.append(learned.value)
        if each is not None:
            each(learned)
    value = statistics.median(values)
    limit, baseline = (
        statistics.median(tried(trial, seed).value for seed in seeds)
        for trial in (recipe.contrast.trial, recipe.baseline.trial)
    )
    return Outcome(
        recipe.name,
        value,
        limit,
        baseline,
        statistics.median(seconds),
        recipe.metric.reaches(value, recipe.threshold),
        (recipe.contrast.metric or recipe.metric).limited(limit, recipe.contrast.bound),
        len(seeds),
    )
