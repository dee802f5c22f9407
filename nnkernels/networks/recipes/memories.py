"""Networks with a memory of their own, on the task of copying."""

from __future__ import annotations

import functools
import math
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
_FOUND = 0.05
"""The loss below which a network copies what is as long as what it learned on: those that do not stay above 0.3."""


def remembers(network: type[Remembering]) -> Callable[[int], Remembering]:
    return lambda seed: network(BITS + 1, BITS, slots=SLOTS)


def lstm(seed: int) -> torch.nn.Module:
    """A network whose only memory is its state."""
    cell = LSTMCell(BITS + 1, 128, "tanh", 2 * LONGEST)
    return torch.nn.Sequential(cell, torch.nn.Linear(128, BITS))


def _loss(model: torch.nn.Module, length: int, count: int, seed: int) -> Tensor:
    x, y = copying(length, count, BITS, seed)
    return torch.nn.functional.binary_cross_entropy_with_logits(model(x)[:, -length:], y)


def _learned(model: torch.nn.Module, steps: int, rate: float, seed: int) -> float:
    """Teaches a network to copy up to 8 vectors; its loss with 8 that it has not seen."""
    lengths = torch.randint(1, LONGEST + 1, (steps,)).tolist()
    descend_drawn(model, lambda step: _loss(model, lengths[step], 16, seed * steps + step), steps, rate)
    with torch.no_grad():
        return _loss(model, LONGEST, 200, 999_999).item()


@functools.cache
def taught(make: Callable[[int], torch.nn.Module], seed: int, steps: int, rate: float, starts: int) -> torch.nn.Module:
    """What has learned to copy; once for each seed, as recipe and contrast ask the same network.

    Heads that lose their place early do not find it again, so that such a start is given up for another.
    """
    torch.manual_seed(seed)
    least, best = math.inf, None
    for start in range(starts):
        model = make(seed)
        loss = _learned(model, steps, rate, seed + 1000 * start)
        loss = loss if math.isfinite(loss) else math.inf
        if best is None or loss < least:
            least, best = loss, model
        if least < _FOUND:
            break
    assert best is not None
    return best


def copies(
    make: Callable[[int], torch.nn.Module],
    length: int = 2 * LONGEST,
    steps: int = 1200,
    rate: float = 1e-2,
    starts: int = 1,
) -> Fitted:
    """The share of bits that are wrong in copies of `length` vectors, of what has learned on at most 8."""

    @torch.no_grad()
    def wrong(model: torch.nn.Module, seed: int) -> float:
        x, y = copying(length, 500, BITS, seed=1_000_000)
        return ((model(x)[:, -length:] > 0) != (y > 0.5)).double().mean().item()

    return Fitted(
        lambda seed: seed,
        make,
        lambda model, seed: model.load_state_dict(taught(make, seed, steps, rate, starts).state_dict()),
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


def row(network: type[Remembering], paper: str, threshold: float, rate: float) -> Recipe:
    name, made = network.__name__, remembers(network)
    copied = functools.partial(copies, made, rate=rate, starts=4)
    return Recipe(
        name=name.lower(),
        network=name,
        paper=paper,
        problem=f"{2 * LONGEST} vectors copied, learned on {LONGEST} at most",
        trial=copied(),
        metric=WRONG,
        threshold=threshold,
        contrast=Contrast(f"40 vectors: more than its {SLOTS} slots", copied(40), bound=0.2),
        baseline=Baseline("LSTM", copies(lstm)),
        slow=True,
        picture=where_its_heads_were,
    )


RECIPES = (
    row(NTM, "Graves, Wayne & Danihelka 2014", threshold=0.03, rate=2e-2),
    row(DNC, "Graves et al. 2016", threshold=0.1, rate=1e-2),
)
