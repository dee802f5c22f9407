"""Where a run stands, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Progress:
    """Where a run stands; with the weights and the random generators, all that its future depends on.

    Attributes:
        step: steps of the optimiser that are done.
        epoch, batch: the batch that comes next.
        best: the best metric so far, of `best_step`.
        waited: evaluations since then.
        losses: of the steps since the last line of the log.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float | None = None
    best_step: int = 0
    waited: int = 0
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation:
    """What held-out data says after `step` steps."""

    step: int
    loss: float
    metric: float
    best: bool


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        steps: done in all.
        began: after which step it went on, if it was resumed; equal to `steps` if nothing was left to do.
        evaluation: the last one; None if there was none.
        best: the best metric, of `best_step`.
        metric: its name.
        folder: of the run.
        stopped: None if the run is complete, else why not: "patience", or the name of a signal.
    """

    steps: int
    began: int
    evaluation: Evaluation | None
    best: float | None
    best_step: int
    metric: str
    folder: Path
    stopped: str | None
