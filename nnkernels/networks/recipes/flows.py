"""Networks that say how a state changes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ode import NeuralODE, runge_kutta
from ..recipe import MSE, Baseline, Contrast, Metric, Recipe
from ..trials import Fitted, Learned, sklearn

MAE = Metric("mean absolute error", False, "{:.2g}")
WINDOW = 10


class Path(NamedTuple):
    """States `(times, 2)` and when they were seen `(times,)`."""

    states: Tensor
    times: Tensor


def spiral(seed: int) -> Path:
    """Chen et al.'s: y' = A y^3 from (2, 0), 1,000 points of 25 seconds, of which the inner ones hardly move."""
    times = torch.linspace(0, 25, 1000, dtype=torch.float64)
    matrix = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=torch.float64)
    start = torch.tensor([2.0, 0.0], dtype=torch.float64)
    return Path(runge_kutta(lambda time, y: y**3 @ matrix, start, times, 4).float(), times.float())


def pursue(model: NeuralODE, path: Path) -> None:
    """1,000 steps, each on 64 windows of eleven points, of which the first is told."""
    steps, starts = 1000, len(path.states) - WINDOW
    windows = path.states.unfold(0, WINDOW + 1, 1).movedim(2, 0)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-2, steps)
    for _ in range(steps):
        chosen = windows[:, torch.randint(starts, (64,))]
        optimizer.zero_grad()
        (model.trajectory(chosen[0], path.times[: WINDOW + 1]) - chosen).abs().mean().backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def astray(model: NeuralODE, path: Path) -> float:
    """How far off all 25 seconds are, of which the beginning alone is told."""
    return (model.trajectory(path.states[:1], path.times)[:, 0] - path.states).abs().mean().item()


def fit_line(model: Any, path: Path) -> None:
    """Differences between neighbours, as a linear function of their mean."""
    states = path.states.numpy()
    model.fit((states[1:] + states[:-1]) / 2, (states[1:] - states[:-1]) / path.times.diff()[:, None].numpy())


def line_astray(model: Any, path: Path) -> float:
    matrix, offset = torch.from_numpy(model.coef_).float(), torch.from_numpy(model.intercept_).float()
    said = runge_kutta(lambda time, y: matrix @ y + offset, path.states[0], path.times)
    return (said - path.states).abs().mean().item()


def line(seed: int) -> Tensor:
    return torch.linspace(-1, 1, 65)[:, None]


def turn(model: NeuralODE, x: Tensor) -> None:
    """300 steps towards -x."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        (model(x) + x).square().mean().backward()
        optimizer.step()


@torch.no_grad()
def unturned(model: NeuralODE, x: Tensor) -> float:
    return (model(x) + x).square().mean().item()


@torch.no_grad()
def field(learned: Learned, figure: Any) -> None:
    """The path, what the network makes of its beginning, and the slope that it has learned everywhere."""
    path, model = learned.data, learned.model
    said = model.trajectory(path.states[:1], path.times)[:, 0]
    axes = figure.subplots()
    ticks = torch.linspace(-2.2, 2.2, 21)
    grid = torch.cartesian_prod(ticks, ticks)
    slope = model.slope(path.times[0], grid)
    slope = slope / slope.norm(dim=1, keepdim=True).sqrt()
    axes.quiver(*grid.T, *slope.T, color="lightgrey", width=0.003)
    axes.plot(*path.states.T, label="the spiral", linewidth=3, alpha=0.4)
    axes.plot(*said.T, "--", color="black", linewidth=1, label="from its first point on")
    axes.set_aspect("equal")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


RECIPES = (
    Recipe(
        name="ode",
        network="Neural ODE",
        paper="Chen et al. 2018",
        problem="a spiral from its first point",
        trial=Fitted(spiral, lambda seed: NeuralODE(2, activation="mish", steps=1), fit=pursue, measure=astray),
        metric=MAE,
        threshold=0.08,
        contrast=Contrast(
            "x to -x: paths on a line cannot cross",
            Fitted(line, lambda seed: NeuralODE(1), fit=turn, measure=unturned),
            bound=0.3,
            metric=MSE,
        ),
        baseline=Baseline(
            "a linear slope", Fitted(spiral, sklearn("linear_model.LinearRegression"), fit_line, line_astray)
        ),
        picture=field,
    ),
)
