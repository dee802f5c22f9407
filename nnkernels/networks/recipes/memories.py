"""Networks with a memory of their own, on the task of copying."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...train.generated import copying
from ..descending import descend_drawn
from ..dnc import DNC
from ..lstm import LSTMCell
from ..ntm import NTM
from ..recipe import Baseline, Contrast, Metric, Recipe
from ..remembering import Remembering
from ..trials import Fitted, Learned

WRONG = Metric("bits wrong", False, "{:.1%}")
BITS, LONGEST, SLOTS = 4, 8, 24


def remembers(network: type[Remembering]) -> Callable[[int], Remembering]:
    return lambda seed: network(BITS + 1, BITS, slots=SLOTS)


def lstm(seed: int) -> torch.nn.Module:
    """A network whose only memory is its state."""
    cell = LSTMCell(BITS + 1, 128, "tanh", 2 * LONGEST)
    return torch.nn.Sequential(cell, torch.nn.Linear(128, BITS))


@functools.cache
def taught(make: Callable[[int], torch.nn.Module], seed: int, steps: int) -> torch.nn.Module:
    """What has learned to copy up to 8 vectors; once for each seed, as recipe and contrast ask the same network."""
    torch.manual_seed(seed)
    model = make(seed)
    lengths = torch.randint(1, LONGEST + 1, (steps,)).tolist()

    def loss(step: int) -> Tensor:
        x, y = copying(lengths[step], 16, BITS, seed=seed * steps + step)
        return torch.nn.functional.binary_cross_entropy_with_logits(model(x)[:, -lengths[step] :], y)

    descend_drawn(model, loss, steps, 1e-2)
    return model


def copies(make: Callable[[int], torch.nn.Module], length: int = 2 * LONGEST, steps: int = 1200) -> Fitted:
    """The share of bits that are wrong in copies of `length` vectors, of what has learned on at most 8."""

    @torch.no_grad()
    def wrong(model: torch.nn.Module, seed: int) -> float:
        x, y = copying(length, 500, BITS, seed=1_000_000)
        return ((model(x)[:, -length:] > 0) != (y > 0.5)).double().mean().item()

    return Fitted(
        lambda seed: seed,
        make,
        lambda model, seed: model.load_state_dict(taught(make, seed, steps).state_dict()),
        wrong,
    )


@torch.no_grad()
def where_its_heads_were(learned: Learned, figure: Any) -> None:
    """The slots that are written to and read from, at each place of a copy of 16 vectors."""
    x, y = copying(2 * LONGEST, 1, BITS, seed=1_000_000)
    outputs, where = learned.model.traced(x)
    said = outputs.sigmoid()
    said[:, : x.shape[1] - y.shape[1]] = 0
    rows = {"given": x[0], "said": said[0], "written to": where[0, :, 0], "read from": where[0, :, 1]}
    sizes = [one.shape[1] for one in rows.values()]
    for axes, (title, one) in zip(
        figure.subplots(len(rows), 1, sharex=True, height_ratios=[max(size, 8) for size in sizes]),
        rows.items(),
        strict=True,
    ):
        axes.imshow(one.T.numpy(), cmap="Greys", vmin=0, vmax=1, aspect="auto", interpolation="none")
        axes.set_ylabel(title, rotation=0, ha="right", va="center")
        axes.set_yticks([])
    axes.set_xlabel("place: 16 vectors are read, then said again")


def row(network: type[Remembering], paper: str, threshold: float) -> Recipe:
    name, made = network.__name__, remembers(network)
    return Recipe(
        name=name.lower(),
        network=name,
        paper=paper,
        problem=f"{2 * LONGEST} vectors copied, learned on {LONGEST} at most",
        trial=copies(made),
        metric=WRONG,
        threshold=threshold,
        contrast=Contrast(f"40 vectors: more than its {SLOTS} slots", copies(made, 40), bound=0.2),
        baseline=Baseline("LSTM", copies(lstm)),
        slow=True,
        picture=where_its_heads_were,
    )


RECIPES = (
    row(NTM, "Graves, Wayne & Danihelka 2014", threshold=0.03),
    row(DNC, "Graves et al. 2016", threshold=0.1),
)
