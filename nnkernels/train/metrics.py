"""What held-out data is judged by, by name: metrics of torchmetrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .data import Problem

if TYPE_CHECKING:
    from torchmetrics import Metric


@dataclass(frozen=True)
class Choice:
    """A metric by name.

    Attributes:
        kinds: the kinds of problem that it judges.
        higher: whether more is better.
        make: makes the metric of torchmetrics for a problem.
        shown: what its value is turned into.
    """

    kinds: tuple[str, ...]
    higher: bool
    make: Callable[[Problem], Any]
    shown: Callable[[Tensor], Tensor] = lambda value: value


def _classes(name: str, **options: Any) -> Callable[[Problem], Any]:
    def make(problem: Problem) -> Any:
        from torchmetrics import classification

        return getattr(classification, f"Multiclass{name}")(num_classes=problem.outputs, **options)

    return make


def _values(name: str) -> Callable[[Problem], Any]:
    def make(problem: Problem) -> Any:
        import torchmetrics

        return getattr(torchmetrics, name)()

    return make


def _perplexity(problem: Problem) -> Any:
    from torchmetrics.text import Perplexity

    return Perplexity()


_SORTED = ("classes", "characters")
METRICS: dict[str, Choice] = {
    "accuracy": Choice(_SORTED, True, _classes("Accuracy", average="micro")),
    "balanced_accuracy": Choice(("classes",), True, _classes("Accuracy", average="macro")),
    "f1": Choice(("classes",), True, _classes("F1Score", average="macro")),
    "auroc": Choice(("classes",), True, _classes("AUROC")),
    "bits": Choice(("characters",), False, _perplexity, Tensor.log2),
    "perplexity": Choice(("characters",), False, _perplexity),
    "r2": Choice(("values",), True, _values("R2Score")),
    "mse": Choice(("values",), False, _values("MeanSquaredError")),
    "mae": Choice(("values",), False, _values("MeanAbsoluteError")),
}
USUAL = {"classes": "accuracy", "characters": "bits", "values": "r2"}


class Judge:
    """One metric over held-out data.

    Raises:
        ValueError: the metric does not judge this kind of problem.
    """

    def __init__(self, name: str | None, problem: Problem, device: Any) -> None:
        self.name = name or USUAL[problem.kind]
        self.choice = METRICS[self.name]
        if problem.kind not in self.choice.kinds:
            those = ", ".join(one for one, choice in METRICS.items() if problem.kind in choice.kinds)
            raise ValueError(f"the metric {self.name!r} does not judge {problem.kind}; these do: {those}")
        self._flat = self.name == "accuracy"
        self.metric: Metric = self.choice.make(problem).to(device)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        outputs = outputs.float()
        if self._flat:
            outputs, targets = outputs.flatten(0, -2), targets.flatten()
        self.metric.update(outputs, targets)

    def result(self) -> float:
        """The value over all that was judged since the last call."""
        value = float(self.choice.shown(self.metric.compute()))
        self.metric.reset()
        return value

    def better(self, one: float, other: float | None) -> bool:
        """Whether `one` is better than `other`; anything is better than None, and than NaN."""
        if other is None or other != other:
            return True
        return one > other if self.choice.higher else one < other
