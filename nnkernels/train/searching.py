"""What is searched for: each setting with the values that a trial may take, and which trials are still to be made."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .. import registry
from ..names import check

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

ACTIVATIONS = tuple(row.name for row in registry.catalogue() if row.searched)
"""The activations among which is chosen unless others are named."""

SPACE: dict[str, Callable[[Trial, Sequence[str]], Any]] = {
    "lr": lambda trial, activations: trial.suggest_float("lr", 1e-4, 1e-1, log=True),
    "optimizer": lambda trial, activations: trial.suggest_categorical("optimizer", ["sgd", "adam", "adamw", "rmsprop"]),
    "width": lambda trial, activations: trial.suggest_categorical("width", [32, 64, 128, 256]),
    "depth": lambda trial, activations: trial.suggest_int("depth", 1, 3),
    "activation": lambda trial, activations: trial.suggest_categorical("activation", list(activations)),
    "batch_size": lambda trial, activations: trial.suggest_categorical("batch_size", [16, 32, 64, 128]),
    "dropout": lambda trial, activations: trial.suggest_float("dropout", 0.0, 0.5),
    "weight_decay": lambda trial, activations: trial.suggest_float("weight_decay", 1e-5, 1.0, log=True),
    "schedule": lambda trial, activations: trial.suggest_categorical("schedule", ["constant", "cosine", "one_cycle"]),
    "warmup": lambda trial, activations: trial.suggest_float("warmup", 0.0, 0.3),
}
"""How a trial draws each setting that can be searched for."""

USUAL = ("lr", "optimizer", "width", "activation")


class Search:
    """A search for the best of several settings, in so many trials over all processes.

    Args:
        names: of the settings, keys of `SPACE`.
        activations: among which `activation` is chosen.
        trials: to be finished, those that were cut short because they looked bad included.

    Raises:
        ValueError: a setting or an activation is not known; the message lists those that are.

    Example:
        >>> from nnkernels.train.searching import Search
        >>> Search(["lr", "width"], trials=40).todo([])
        40
    """

    prunes = True

    def __init__(self, names: Sequence[str], activations: Sequence[str] = ACTIVATIONS, trials: int = 40) -> None:
        for name in names:
            check("setting to search for", name, SPACE)
        for name in activations:
            registry.activation(name)
        if trials < 1:
            raise ValueError(f"trials has to be at least 1, got {trials}")
        self.names, self.activations, self.trials = tuple(names), tuple(activations), trials

    def told(self) -> dict[str, Any]:
        """What all processes of a study have to agree on."""
        return {"search": list(self.names), "activations": list(self.activations)}

    def todo(self, trials: Sequence[FrozenTrial]) -> int:
        """How many trials nobody has finished or begun."""
        return self.trials - sum(one.state.name in ("COMPLETE", "PRUNED", "RUNNING") for one in trials)

    def next(self, trials: Sequence[FrozenTrial], turn: int) -> dict[str, Any] | None:
        """The settings of the next trial; None leaves them to the sampler."""
        return None

    def drawn(self, trial: Trial) -> dict[str, Any]:
        """The settings of this trial."""
        return {name: SPACE[name](trial, self.activations) for name in self.names}


class Comparison(Search):
    """Every activation with every seed, each trial to its end, so that means and their intervals are fair.

    Args:
        activations: to be compared.
        seeds: how many runs each has.

    Raises:
        ValueError: an activation is not known, or there are fewer than two seeds, which give no interval.

    Example:
        >>> from nnkernels.train.searching import Comparison
        >>> Comparison(["relu", "mish"], seeds=5).todo([])
        10
    """

    prunes = False

    def __init__(self, activations: Sequence[str] = ACTIVATIONS, seeds: int = 5) -> None:
        super().__init__(["activation"], activations)
        if seeds < 2:
            raise ValueError(f"seeds has to be at least 2, since one run has no confidence interval; got {seeds}")
        self.seeds = seeds

    def _missing(self, trials: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
        begun = [one for one in trials if one.state.name in ("COMPLETE", "PRUNED", "RUNNING")]
        there = {(one.params.get("activation"), one.params.get("seed")) for one in begun}
        pairs = itertools.product(range(self.seeds), self.activations)
        return [{"activation": name, "seed": seed} for seed, name in pairs if (name, seed) not in there]

    def todo(self, trials: Sequence[FrozenTrial]) -> int:
        return len(self._missing(trials))

    def next(self, trials: Sequence[FrozenTrial], turn: int) -> dict[str, Any] | None:
        missing = self._missing(trials)
        return missing[turn % len(missing)]

    def drawn(self, trial: Trial) -> dict[str, Any]:
        return {**super().drawn(trial), "seed": trial.suggest_int("seed", 0, 10**6)}
