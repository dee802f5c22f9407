"""Networks whose neurons tell all they have to tell by spikes."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ...train.settings import Settings
from ..mlp import MLP
from ..recipe import ACCURACY, Baseline, Contrast, Metric, Recipe
from ..spiking import Spiking
from ..trials import Fitted, Learned, Trained

COST = Metric("times an MLP's multiplications", False, "{:.1f}")
SHAPE, CLASSES = (1, 8, 8), 10


def operations(model: torch.nn.Module) -> int:
    """How often a network multiplies and adds for one digit, as torch counts it."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *SHAPE))
    return counter.get_total_flops()


@torch.no_grad()
def raster(learned: Learned, figure: Any) -> None:
    """Which neurons of each layer fire when, for three digits one after the other, and those digits."""
    model, held = learned.model, learned.data.held
    digits = torch.stack([held.inputs[held.targets == digit][0] for digit in (0, 1, 8)])
    layers = model.network.spikes(model.scale(digits))
    grid = figure.add_gridspec(1 + len(layers), 3, height_ratios=[1, *[2] * len(layers)])
    for column, digit in enumerate(digits):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(digit[0], cmap="gray")
        axes.axis("off")
    for row, spikes in enumerate(layers, start=1):
        axes = figure.add_subplot(grid[row, :])
        time, neuron = spikes.transpose(0, 1).flatten(0, 1).nonzero(as_tuple=True)
        axes.scatter(time, neuron, s=3, marker="|", color="black")
        for at in range(1, len(digits)):
            axes.axvline(at * model.network.steps - 0.5, color="tab:red", linewidth=0.8)
        axes.set(ylabel=f"layer {row}", xlim=(-0.5, len(digits) * model.network.steps - 0.5))
        axes.set_title(f"{spikes.mean():.0%} of all chances to fire are taken", loc="left", fontsize=9)
    axes.set_xlabel("step")


RECIPES = (
    Recipe(
        name="spiking",
        network="Spiking",
        paper="Neftci, Mostafa & Zenke 2019",
        problem="handwritten digits as rates of spikes",
        trial=Trained(Settings(network="spiking", data="digits", epochs=20)),
        metric=ACCURACY,
        threshold=0.95,
        contrast=Contrast(
            "the price on hardware that does not wait for spikes",
            Fitted(
                lambda seed: MLP(SHAPE, CLASSES),
                lambda seed: Spiking(SHAPE, CLASSES),
                fit=lambda model, mlp: None,
                measure=lambda model, mlp: operations(model) / operations(mlp),
            ),
            bound=8.0,
            metric=COST,
        ),
        baseline=Baseline("MLP", Trained(Settings(network="mlp", data="digits", epochs=20))),
        picture=raster,
    ),
)
