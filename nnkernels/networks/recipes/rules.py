"""Networks that are rules in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...train.data import Problem
from ...train.generated import mackey_glass
from ..anfis import ANFIS
from ..recipe import R2, Baseline, Contrast, Metric, Recipe
from ..trials import Fitted, Learned, Split, sklearn

RMSE = Metric("root mean square error", False, "{:.2g}")
BACK = (18, 12, 6, 0)


def six_later(seed: int) -> Split:
    """Jang's own: Mackey-Glass six steps later from four values six apart, 500 to learn from and 500 held out."""
    series = mackey_glass(1_124)
    times = torch.arange(118, 1_118)
    x, y = torch.stack([series[times - back] for back in BACK], 1).numpy(), series[times + 6].numpy()
    return Split(x[:500], y[:500], x[500:], y[500:], Problem("values", (len(BACK),), 1))


def rules(epochs: int) -> Callable[[int], ANFIS]:
    return lambda seed: ANFIS(epochs=epochs, penalty=1e-9)


def root(model: Any, data: Split) -> float:
    return float(((model.predict(data.held_x) - data.held_y) ** 2).mean() ** 0.5)


def bells(learned: Learned, figure: Any) -> None:
    """What "low" and "high" came to mean for each of the four values."""
    model = learned.model
    for feature, axes in enumerate(figure.subplots(2, 2).flat):
        low, span = float(model.low[feature]), float(model.span[feature])
        line = model.low + torch.linspace(0, 1, 200)[:, None].to(model.low) * model.span
        for name, bell in zip(("low", "high"), model.bells(line).exp()[:, feature].T, strict=True):
            axes.plot(line[:, feature], bell, label=name)
        axes.set(title=f"x(t - {BACK[feature]})" if BACK[feature] else "x(t)", xlim=(low, low + span), ylim=(0, 1.05))
        axes.legend(frameon=False)


RECIPES = (
    Recipe(
        name="anfis",
        network="Fuzzy",
        paper="Jang 1993",
        problem="Mackey-Glass, six steps later",
        trial=Fitted(six_later, rules(100), measure=root),
        metric=RMSE,
        threshold=0.0033,
        contrast=Contrast(
            "diabetes, ten features: 1,024 rules, 354 patients", Fitted("diabetes", rules(5)), bound=0.2, metric=R2
        ),
        baseline=Baseline("linear", Fitted(six_later, sklearn("linear_model.LinearRegression"), measure=root)),
        picture=bells,
    ),
)
