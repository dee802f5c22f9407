"""What a recipe tries: a network of the trainer, or anything that fits itself, on data; of a seed comes a number."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from ..train.data import Data, Problem
from ..train.datasets import named
from ..train.settings import Settings


class Learned(NamedTuple):
    """What came of a trial: its number, the model (`eval` mode) and the data that it was tried on."""

    value: float
    model: Any
    data: Any


class Trial(Protocol):
    """Anything that makes a number, and a model, of a seed."""

    def run(self, seed: int, folder: Path) -> Learned:
        """Tries it once; `folder` is new, for what it may write."""
        ...


_QUIET: dict[str, Any] = dict(progress=False, tensorboard=False, picture=False, keep=1, log_every=1_000_000)


@dataclass(frozen=True)
class Trained:
    """A network trained by gradients, by the trainer; the number is the last evaluation's metric, not the best one.

    Attributes:
        settings: what, on what and how, as of `nnkernels train`; its `metric` is the number.
        data: makes data without a name of the seed, in place of `settings.data`.
        model: makes a network without a name for the problem, in place of `settings.network`.
    """

    settings: Settings
    data: Callable[[int], Data] | None = None
    model: Callable[[Problem], torch.nn.Module] | None = None

    def run(self, seed: int, folder: Path) -> Learned:
        from ..train.trainer import Trainer

        data = self.data(seed) if self.data else named(self.settings.data, self.settings.context)
        torch.manual_seed(seed)
        model = self.model(data.problem) if self.model else None
        every = self.settings.evaluate_every or self._steps(data)
        settings = dataclasses.replace(self.settings, seed=seed, out=folder / "run", evaluate_every=every, **_QUIET)
        trainer = Trainer(settings, data, model)
        result = trainer.run()
        if result.evaluation is None:
            raise RuntimeError(f"training on {self.settings.data} was stopped, by a signal, before it was judged")
        return Learned(result.evaluation.metric, trainer.model.eval(), data)

    def _steps(self, data: Data) -> int:
        return self.settings.epochs * -(-len(data.train) // self.settings.batch_size)  # type: ignore[arg-type]


class Split(NamedTuple):
    """Data as arrays: inputs `(samples, features)`, and classes `(samples,)` or values, trained on and held out."""

    x: np.ndarray
    y: np.ndarray
    held_x: np.ndarray
    held_y: np.ndarray
    problem: Problem


def split(data: Data, scaled: bool = True) -> Split:
    """Data of the trainer as arrays, each sample flat.

    Args:
        data: of a problem of classes or values.
        scaled: whether inputs are brought to the mean 0 and the deviation 1, as the trainer's networks do themselves.

    Example:
        >>> from nnkernels.networks.trials import split
        >>> from nnkernels.train.datasets import named
        >>> split(named("iris")).held_x.shape
        (30, 4)
    """
    found: list[np.ndarray] = []
    for part in (data.train, data.held):
        inputs, targets = part.inputs, part.targets  # type: ignore[attr-defined]
        if scaled:
            inputs = (inputs - torch.tensor(data.problem.mean)) / torch.tensor(data.problem.std)
        flat = targets.squeeze(1) if data.problem.kind == "values" and data.problem.outputs == 1 else targets
        found += [inputs.flatten(1).numpy(), flat.numpy()]
    x, y, held_x, held_y = found
    return Split(x, y, held_x, held_y, data.problem)


def _fit(model: Any, data: Any) -> None:
    model.fit(data.x, data.y)


def _score(model: Any, data: Any) -> float:
    return model.score(data.held_x, data.held_y)


@dataclass(frozen=True)
class Fitted:
    """Anything that fits itself: an estimator of ours or of scikit-learn's, or a model with a loop of its own.

    Attributes:
        data: the name of a data set, which becomes a `Split`, or what makes data of the seed: `Data` becomes a `Split`
            too, and anything else is given to `fit` and `measure` as it is.
        model: makes the model of the seed.
        fit: makes it learn from the data; by default `model.fit(data.x, data.y)`.
        measure: its number; by default `model.score(data.held_x, data.held_y)`: accuracy, or R2.
        scaled: see `split`.
    """

    data: str | Callable[[int], Any]
    model: Callable[[int], Any]
    fit: Callable[[Any, Any], Any] = _fit
    measure: Callable[[Any, Any], float] = _score
    scaled: bool = True

    def run(self, seed: int, folder: Path) -> Learned:
        found = named(self.data) if isinstance(self.data, str) else self.data(seed)
        data = split(found, self.scaled) if isinstance(found, Data) else found
        torch.manual_seed(seed)
        model = self.model(seed)
        self.fit(model, data)
        if isinstance(model, torch.nn.Module):
            model.eval()
        return Learned(float(self.measure(model, data)), model, data)


def sklearn(name: str, **options: Any) -> Callable[[int], Any]:
    """What makes an estimator of scikit-learn's, which is not imported before.

    Args:
        name: its module and class, such as "linear_model.LogisticRegression".
        **options: of its constructor; `random_state` becomes the seed where it has such.
    """

    def make(seed: int) -> Any:
        module, _, called = name.rpartition(".")
        made = getattr(importlib.import_module(f"sklearn.{module}"), called)(**options)
        return made.set_params(random_state=seed) if "random_state" in made.get_params() else made

    return make
