"""From settings and a problem to a network and its loss."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..networks import NETWORKS, build
from .data import Problem
from .optimizers import LOSSES
from .parallel import local
from .settings import Settings

_FORMS = {2: ("sequences",), 3: ("pictures",)}
"""What an input of so many dimensions may be beside plain numbers."""

_USUAL_LOSS = {"classes": "cross_entropy", "characters": "cross_entropy", "values": "mse"}


class Scale(torch.nn.Module):
    """(x - mean) / std with the training data's mean and deviation, so that the network takes data as it is.

    Args:
        mean, std: one number, or one for each of the last dimension.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def network(settings: Settings, problem: Problem) -> torch.nn.Module:
    """The network that the settings name, for the problem, with new weights.

    Raises:
        ValueError: the network does not take such inputs; the message names those that do.
    """
    forms = {"numbers", *_FORMS.get(len(problem.shape), ())} if problem.kind != "characters" else {"characters"}
    row = NETWORKS[settings.network]
    if forms.isdisjoint(row.takes):
        those = ", ".join(name for name, one in NETWORKS.items() if not forms.isdisjoint(one.takes))
        given = "characters" if problem.kind == "characters" else f"numbers of the shape {problem.shape}"
        raise ValueError(
            f"the network {settings.network!r} takes {' or '.join(row.takes)}, but {settings.data!r} has {given}; "
            f"these fit: {those}"
        )
    options = {name: getattr(settings, name) for name in ("activation", "width", "depth", "dropout")}
    made = build(settings.network, problem.shape, problem.outputs, **options)
    if problem.kind == "characters":
        return made
    return torch.nn.Sequential(OrderedDict(scale=Scale(problem.mean, problem.std), network=made))


def criterion(settings: Settings, problem: Problem) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean loss of a batch, a function of outputs and targets."""
    loss: Any = LOSSES[settings.loss or _USUAL_LOSS[problem.kind]]()
    if problem.kind != "characters":
        return loss
    return lambda outputs, targets: loss(outputs.flatten(0, 1), targets.flatten())


def averaged(model: torch.nn.Module, decay: float | None) -> AveragedModel | None:
    """What keeps a running mean of the weights, a copy of the network; None if there is no decay."""
    if decay is None:
        return None
    update = get_ema_multi_avg_fn(decay)

    def update_parts(averages: Sequence[Tensor], weights: Sequence[Tensor], count: Tensor | int) -> None:
        update([*map(local, averages)], [*map(local, weights)], count)

    return AveragedModel(model, multi_avg_fn=update_parts, use_buffers=True)
