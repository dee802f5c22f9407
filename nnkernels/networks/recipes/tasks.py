"""Networks that meet one task after the other."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...train.datasets import named
from ...train.settings import Settings
from ..mlp import MLP
from ..modular import Modular
from ..recipe import ACCURACY, Baseline, Contrast, Recipe
from ..trials import Fitted, Learned, Trained
from .sequences import parity

TASKS, EPOCHS, FEATURES = 3, 15, 67
RATE, GATE = 0.2, 10.0


class Task(NamedTuple):
    """What is trained on, inputs `(samples, 67)` and classes `(samples,)`, and what is held out."""

    x: Tensor
    y: Tensor
    held_x: Tensor
    held_y: Tensor


def tasks(seed: int) -> list[Task]:
    """The digits three times, in each with the pixels in another order, and behind them a mark of which it is."""
    digits = named("digits")
    parts: Any = (digits.train, digits.held)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for task in range(TASKS):
        order = torch.randperm(64, generator=generator)
        arrays: list[Tensor] = []
        for part in parts:
            mark = torch.eye(TASKS)[task].expand(len(part.inputs), -1)
            arrays += [torch.cat([part.inputs.flatten(1)[:, order] / 8 - 1, mark], 1), part.targets]
        found.append(Task(*arrays))
    return found


def one_by_one(model: torch.nn.Module, data: list[Task]) -> None:
    """15 rounds over each task, none of which comes back.

    Plain gradient descent: Adam would make whole steps of the traces of a gradient that a closed gate lets through. The
    gate is fifty times as fast, so that it has decided before several experts have learned the same.
    """
    gate = [*model.gate.parameters()] if isinstance(model, Modular) else []
    rest = [one for name, one in model.named_parameters() if not name.startswith("gate.")]
    groups: list[dict[str, Any]] = [{"params": rest}, {"params": gate, "lr": GATE}]
    optimizer = torch.optim.SGD(groups, RATE)
    for task in data:
        for _ in range(EPOCHS):
            for at in torch.randperm(len(task.x)).split(64):
                x, y = task.x[at], task.y[at]
                optimizer.zero_grad()
                if isinstance(model, Modular):
                    model.competition(x, y).backward()
                else:
                    torch.nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()


@torch.no_grad()
def each_remembered(model: torch.nn.Module, data: list[Task]) -> list[float]:
    """The accuracy in each task, in the order in which they were met."""
    return [(model(task.held_x).argmax(1) == task.held_y).float().mean().item() for task in data]


def remembered(model: torch.nn.Module, data: list[Task]) -> float:
    return sum(each_remembered(model, data)) / len(data)


@torch.no_grad()
def who_answers(learned: Learned, figure: Any) -> None:
    """How much each expert has to say in each task, and how many digits each reads there by itself."""
    model, data = learned.model, learned.data
    weights = torch.stack([model.gates(task.held_x).mean(0) for task in data])
    alone = torch.stack(
        [(model.parts(task.held_x)[1].argmax(2) == task.held_y[:, None]).float().mean(0) for task in data]
    )
    for axes, (title, table) in zip(
        figure.subplots(1, 2),
        {"the gate's weight": weights, "accuracy of the expert alone": alone}.items(),
        strict=True,
    ):
        axes.imshow(table, vmin=0, vmax=1, cmap="Blues")
        for (task, expert), value in zip(
            torch.cartesian_prod(*map(torch.arange, table.shape)), table.flatten(), strict=True
        ):
            axes.text(expert, task, f"{value:.0%}", ha="center", va="center", color="white" if value > 0.5 else "black")
        axes.set(title=title, xlabel="expert", ylabel="task, in the order of training")
        axes.set(xticks=range(table.shape[1]), yticks=range(len(data)))


RECIPES = (
    Recipe(
        name="modular",
        network="Modular",
        paper="Jacobs et al. 1991",
        problem="three orders of a digit's pixels, one after the other",
        trial=Fitted(
            tasks, lambda seed: Modular((FEATURES,), 10, experts=TASKS, context=TASKS), one_by_one, remembered
        ),
        metric=ACCURACY,
        threshold=0.9,
        contrast=Contrast(
            "parity of 40 bits", Trained(Settings(network="modular", width=32, epochs=10), data=parity), bound=0.6
        ),
        baseline=Baseline(
            "MLP", Fitted(tasks, lambda seed: MLP((FEATURES,), 10, width=192, depth=1), one_by_one, remembered)
        ),
        picture=who_answers,
    ),
)
