"""Searching for settings with Optuna, in as many processes as one likes, of which any may die.

A study lives in its storage: each process takes trials until enough are finished. A trial whose process was killed is
failed and tried again, from its checkpoints where they can be reached.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import itertools
import logging
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .checkpoint import CheckpointError, write_whole
from .data import Problem
from .datasets import named
from .divergence import NotFinite
from .folder import CHECKPOINTS
from .locking import InUse
from .metrics import METRICS, USUAL
from .report import read_log
from .searching import Comparison, Search
from .settings import Settings
from .storing import give_back, here, joined_study, storage_at, take_back
from .trainer import Evaluation, Result, Trainer

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial


@dataclass(frozen=True)
class Place:
    """Where a study and what it writes are kept.

    Attributes:
        folder: of the trials' runs, the plots and the best settings; a study with a name of its own has study-NAME in
            it for these.
        storage: see `storing.storage_at`; by default study.db in the folder.
        study: its name in the storage; by default data and network.
        heartbeat: seconds between two signs of life of a running trial.
    """

    folder: Path
    storage: str | None = None
    study: str | None = None
    heartbeat: int = 10

    def named(self, base: Settings) -> str:
        """The name of the study."""
        return self.study or f"{base.data}-{base.network}"

    def home(self, base: Settings) -> Path:
        """The folder that this study writes in, and no other one of the same storage."""
        usual = self.named(base) == f"{base.data}-{base.network}"
        return self.folder if usual else self.folder / f"study-{quote(self.named(base), safe=' ')}"


@dataclass(frozen=True)
class Line:
    """How one activation did: the mean of the best metric over seeds, and half its 95 % confidence interval."""

    activation: str
    runs: int
    mean: float
    half: float
    seconds_per_step: float


def tune(base: Settings, search: Search, place: Place, pruner: str = "median") -> Study:
    """Makes trials until the study has enough, then writes best.yaml, trials.csv and Optuna's plots into the folder.

    Args:
        base: all settings that are not searched for.
        search: `Search` or `Comparison`.
        place: where the study is kept.
        pruner: "median", "hyperband" or "none": which trials are cut short; a comparison cuts none.

    Raises:
        ValueError: the study in this storage was begun with other settings.
        OSError: the storage cannot be reached, or a file not be written.
    """
    import optuna

    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    logging.getLogger("optuna.study._optimize").addFilter(_in_a_sentence)
    problem = named(base.data, base.context).problem
    storage = storage_at(place.storage or str(place.folder / "study.db"), place.heartbeat)
    study = _study(base, search, place, pruner, problem, storage)
    objective = Objective(base, search, place.home(base))
    while True:
        take_back(study, storage)
        trials = study.get_trials(deepcopy=False)
        states = [trial.state.name for trial in trials]
        if "WAITING" in states or search.todo(trials) > 0:
            if "WAITING" not in states and (told := search.next(trials, os.getpid())):
                study.enqueue_trial(told)
            try:
                study.optimize(objective, n_trials=1)
            except KeyboardInterrupt:
                if objective.number is not None:
                    give_back(study, objective.number)
                raise
        elif "RUNNING" in states:  # another process's last trial, which may come back
            time.sleep(min(1.0, place.heartbeat / 2))
        else:
            break
    write(study, base, search, place.home(base))
    return study


def _study(base: Settings, search: Search, place: Place, pruner: str, problem: Problem, storage: BaseStorage) -> Study:
    import optuna

    higher = METRICS[base.metric or USUAL[problem.kind]].higher
    made = {
        "median": optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
        "hyperband": optuna.pruners.HyperbandPruner(),
        "none": optuna.pruners.NopPruner(),
    }[pruner if search.prunes else "none"]
    told = {**search.told(), **{key: one for key, one in base.to_dict().items() if key not in search.names}}
    return joined_study(
        place.named(base),
        told,
        storage=storage,
        sampler=optuna.samplers.TPESampler(constant_liar=True),  # processes keep away from each other's trials
        pruner=made,
        direction="maximize" if higher else "minimize",
    )


def _in_a_sentence(record: logging.LogRecord) -> bool:
    """Takes the traceback from what Optuna logs of a trial that failed: Ctrl-C and bad settings are no defects."""
    if record.exc_info and isinstance(record.exc_info[1], KeyboardInterrupt | ValueError | OSError | RuntimeError):
        record.exc_info = None
    return True


class Objective:
    """Trains one trial and gives its best metric.

    Args:
        base: all settings that are not searched for.
        search: what is.
        folder: of the study; each trial has one in its `trials`, by its number.
    """

    def __init__(self, base: Settings, search: Search, folder: Path) -> None:
        self.base, self.search, self.folder = base, search, folder / "trials"
        self.number: int | None = None
        """Of the trial that it is at."""

    def __call__(self, trial: Trial) -> float:
        import optuna

        self.number = trial.number
        trial.set_user_attr("process", here())
        quiet = {"progress": False, "tensorboard": False, "keep": 1, "resume": True}
        settings = dataclasses.replace(self.base, **{**quiet, **self.search.drawn(trial)})

        def watch(evaluation: Evaluation) -> None:
            trial.report(evaluation.metric, evaluation.step)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            result = self.trained(trial, settings, watch)
        except NotFinite as error:
            trial.set_user_attr("not finite", str(error))
            raise optuna.TrialPruned from error
        if result.stopped in ("SIGINT", "SIGTERM"):
            raise KeyboardInterrupt
        trial.set_user_attr("seconds_per_step", _seconds_per_step(result.folder, self.base))
        assert result.best is not None
        return result.best

    def trained(self, trial: Trial, settings: Settings, watch: Callable[[Evaluation], None]) -> Result:
        """Goes on from where the trial's first try was left, if that can be; else begins, in a folder of its own."""
        name = trial.user_attrs.get("folder")  # a trial that is tried again has those of its first try
        if name is not None and _is_of(self.folder / name, settings):
            with contextlib.suppress(InUse, FileExistsError, CheckpointError):
                return Trainer(dataclasses.replace(settings, out=self.folder / name), watch=watch).run()
        folder = self.made(trial.number)
        trial.set_user_attr("folder", folder.name)
        return Trainer(dataclasses.replace(settings, out=folder), watch=watch).run()

    def made(self, number: int) -> Path:
        """A new folder, called by the number: what is there already is another study's, or of another try."""
        for attempt in itertools.count(1):
            folder = self.folder / (f"{number:04}" if attempt == 1 else f"{number:04}-{attempt}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir(parents=True)
                return folder
        raise AssertionError("the numbers have no end")


def _is_of(folder: Path, settings: Settings) -> bool:
    """Whether what is in the folder, if anything is, was trained with these very settings."""
    try:
        saved = Settings.load(folder / "settings.yaml")
    except FileNotFoundError:
        return not (folder / CHECKPOINTS).exists()
    except (OSError, ValueError, TypeError):
        return False
    return dataclasses.replace(saved, out=None, resume=True) == dataclasses.replace(settings, out=None, resume=True)


def _seconds_per_step(folder: Path, settings: Settings) -> float:
    """The median over the log."""
    speeds = [line.samples_per_second for line in read_log(folder / "log.csv") if line.samples_per_second]
    return settings.batch_size / statistics.median(speeds) if speeds else math.nan


def table(study: Study) -> list[Line]:
    """How each activation of a comparison did, the best first."""
    from scipy.stats import t

    values: dict[str, dict[int, FrozenTrial]] = {}
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name == "COMPLETE":
            values.setdefault(trial.params["activation"], {})[trial.params["seed"]] = trial
    lines = []
    for name, trials in values.items():
        scores = [one.value for one in trials.values() if one.value is not None]
        seconds = statistics.median(one.user_attrs["seconds_per_step"] for one in trials.values())
        half = math.nan
        if len(scores) > 1:
            half = t.ppf(0.975, len(scores) - 1) * statistics.stdev(scores) / math.sqrt(len(scores))
        lines.append(Line(name, len(scores), statistics.mean(scores), float(half), seconds))
    sign = -1 if study.direction.name == "MAXIMIZE" else 1
    return sorted(lines, key=lambda line: sign * line.mean)


def shown(lines: Sequence[Line], metric: str) -> str:
    """The table as text; an activation whose interval meets the best one's is marked, as not told apart from it.

    Args:
        lines: of `table`, at least one.
        metric: its name.
    """
    text = [f"{'activation':14} {'runs':>4} {metric:>12} {'95 %':>11} {'ms/step':>8}"]
    best = lines[0]
    for line in lines:
        near = abs(line.mean - best.mean) <= line.half + best.half
        mark = "" if line is best or not near else "  not told apart from the best"
        interval, milliseconds = f"+- {line.half:.4f}", 1e3 * line.seconds_per_step
        text.append(f"{line.activation:14} {line.runs:>4} {line.mean:>12.4f} {interval:>11} {milliseconds:>8.2f}{mark}")
    return "\n".join(text)


def write(study: Study, base: Settings, search: Search, folder: Path) -> None:
    """best.yaml, which `nnkernels train --config` takes, trials.csv, and the plots, as far as the trials allow them."""
    trials = study.get_trials(deepcopy=False)
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted({name for trial in trials for name in trial.params})
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["number", "state", "value", *names])
    for trial in trials:
        row = ["" if trial.value is None else trial.value, *(trial.params.get(name, "") for name in names)]
        rows.writerow([trial.number, trial.state.name, *row])
    write_whole(folder / "trials.csv", text.getvalue().encode())  # several processes may end at the same time
    if best := best_of(study, search):
        dataclasses.replace(base, out=None, **best).save(folder / "best.yaml")
        draw(study, folder)


def best_of(study: Study, search: Search) -> dict[str, Any]:
    """The best settings among those that were searched for; of a comparison, the activation with the best mean."""
    if isinstance(search, Comparison):
        return {"activation": lines[0].activation} if (lines := table(study)) else {}
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    return dict(study.best_params) if complete else {}


def failures(study: Study) -> str:
    """Why a study has no best trial, in a sentence."""
    trials = study.get_trials(deepcopy=False)
    spoilt = [trial for trial in trials if "not finite" in trial.user_attrs]
    said = f"none of the {len(trials)} trials was finished"
    if spoilt:
        first = spoilt[0]
        said += f"; in {len(spoilt)} the loss was no number, as in trial {first.number} with {first.params}: "
        said += first.user_attrs["not finite"]
    return said


def draw(study: Study, folder: Path) -> None:
    """Optuna's own plots, drawn by matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import optuna
    from optuna.visualization import matplotlib as plots

    optuna.logging.disable_default_handler()
    kinds = (
        "optimization_history",
        "intermediate_values",
        "slice",
        "parallel_coordinate",
        "param_importances",
        "timeline",
    )
    for kind in kinds:
        try:
            getattr(plots, f"plot_{kind}")(study)
        except (ValueError, RuntimeError):  # too few trials for this one, or all of them alike
            plt.close("all")
            continue
        figure = plt.gcf()
        figure.set_size_inches(10, 6)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=100, bbox_inches="tight")
        write_whole(folder / f"{kind}.png", picture.getvalue())
        plt.close("all")
