"""Networks that judge digits in other ways than one score a class: by pairs, by a vote, by parts."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..baselines import above
from ..capsule import Capsule, margin
from ..descending import descend
from ..drawing import curves, tiles
from ..ensemble import Ensemble
from ..mlp import MLP
from ..recipe import ACCURACY, AUROC, Baseline, Contrast, Metric, Recipe
from ..siamese import Siamese, contrastive
from ..trials import Fitted, Learned, Split, Trained
from .generative import inked
from .pictures import CNN

NLL = Metric("nats of surprise", False, "{:.3f}")

UNSEEN = 7
"""The first of the digits that a twin never saw, where it is asked of those alone."""


def strangers(seed: int) -> Split:
    """Digits: trained on are 0 to 6, held out are 7 to 9."""
    data = inked(seed)
    known, strange = data.y < UNSEEN, data.held_y >= UNSEEN
    return data._replace(x=data.x[known], y=data.y[known], held_x=data.held_x[strange], held_y=data.held_y[strange])


def alike(classes: torch.Tensor) -> torch.Tensor:
    """Whether the two of each pair are of one class, in the order of `pdist`."""
    one, other = torch.combinations(classes).unbind(1)
    return one == other


def by_pairs(model: Siamese, data: Split) -> None:
    """Learns from all pairs of each batch."""
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)

    def loss(at: torch.Tensor) -> torch.Tensor:
        return contrastive(torch.pdist(model.embed(x[at])), alike(y[at]))

    descend(model.parameters(), loss, len(x), epochs=20, lr=2e-3)


@torch.no_grad()
def told_apart(model: Siamese, data: Split) -> float:
    """How often two held-out digits of different classes are farther apart than two of one class."""
    apart = torch.pdist(model.embed(torch.from_numpy(data.held_x)))
    same = alike(torch.from_numpy(data.held_y))
    return above(apart[~same], apart[same])


@torch.no_grad()
def pairs(learned: Learned, figure: Any) -> None:
    """Pairs of held-out digits, four of one class and four not, and the distance of each."""
    x, y = torch.from_numpy(learned.data.held_x), torch.from_numpy(learned.data.held_y)
    same = [torch.nonzero(y == digit)[:2, 0].tolist() for digit in (0, 3, 5, 8)]
    mixed = [[int(torch.nonzero(y == digit)[0]) for digit in two] for two in ((0, 6), (3, 8), (5, 9), (1, 7))]
    one, other = (x[list(at)] for at in zip(*same, *mixed, strict=True))
    tiles(figure, {"one": one.view(-1, 8, 8), "other": other.view(-1, 8, 8)})
    for axes, distance in zip(figure.axes[8:], learned.model(one, other).tolist(), strict=True):
        axes.text(0.5, -0.1, f"{distance:.2f} apart", transform=axes.transAxes, ha="center", va="top")


def twins(seed: int) -> Siamese:
    return Siamese(MLP((64,), 16, activation="mish"))


def few_labels(seed: int) -> Split:
    """Digits, of which 200 have labels."""
    data = inked(seed)
    return data._replace(x=data.x[:200], y=data.y[:200])


def each_for_itself(model: Ensemble, data: Split) -> None:
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    for order, member in enumerate(model.members):

        def loss(at: torch.Tensor, member: torch.nn.Module = member) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(member(x[at]), y[at])

        descend(member.parameters(), loss, len(x), epochs=60, batch=32, seed=order)


def one_for_all(model: Ensemble, data: Split) -> None:
    """Trains the first member; the others become copies of it."""
    each_for_itself(Ensemble(model.members[:1]), data)
    for member in model.members[1:]:
        member.load_state_dict(model.members[0].state_dict())


@torch.no_grad()
def surprise(model: torch.nn.Module, data: Split) -> float:
    """The mean negative logarithm of the probability of the right class."""
    said = model(torch.from_numpy(data.held_x))
    return torch.nn.functional.cross_entropy(said, torch.from_numpy(data.held_y)).item()


def gained(model: Ensemble, data: Split) -> float:
    """By how much the whole is less surprised than its members in the mean."""
    alone = [surprise(member, data) for member in model.members]
    return sum(alone) / len(alone) - surprise(model, data)


def crowd(members: int) -> Any:
    return lambda seed: Ensemble(MLP((64,), 10, width=64) for _ in range(members))


@torch.no_grad()
def agreed_and_not(learned: Learned, figure: Any) -> None:
    """The held-out digits on which the members agree most, and least."""
    x = torch.from_numpy(learned.data.held_x)
    order = learned.model.disagreement(x).argsort()
    rows = {"they agree": order[:8], "they disagree": order[-8:]}
    tiles(figure, {title: x[at].view(-1, 8, 8) for title, at in rows.items()})


def digits28(x: Any) -> torch.Tensor:
    return torch.as_tensor(x).view(-1, 1, 28, 28)


def by_lengths(model: Capsule, data: Split) -> None:
    x, y = digits28(data.x), torch.from_numpy(data.y)
    descend(model.parameters(), lambda at: margin(model(x[at]), y[at]), len(x), epochs=6)


def turned(pictures: torch.Tensor, degrees: float) -> torch.Tensor:
    """Pictures `(count, 1, height, width)` turned about their middle."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]]).expand(len(pictures), 2, 3)
    places = torch.nn.functional.affine_grid(turn, list(pictures.shape), align_corners=False)
    return torch.nn.functional.grid_sample(pictures, places, align_corners=False)


def longest(degrees: float) -> Any:
    """The share of held-out digits, turned, whose own capsule is the longest."""

    @torch.no_grad()
    def measure(model: Capsule, data: Split) -> float:
        lengths = model(turned(digits28(data.held_x), degrees))
        return float((lengths.argmax(1).numpy() == data.held_y).mean())

    return measure


@torch.no_grad()
def lengths_by_angle(learned: Learned, figure: Any) -> None:
    """How long the right capsule is, and how often the longest, as digits are turned; it saw them upright alone."""
    angles = list(range(-90, 91, 10))
    x, right = digits28(learned.data.held_x), torch.from_numpy(learned.data.held_y)[:, None]
    lengths = [learned.model(turned(x, angle)) for angle in angles]
    lines = {
        "length of the right capsule": [one.gather(1, right).mean().item() for one in lengths],
        "share of digits told": [(one.argmax(1) == right[:, 0]).float().mean().item() for one in lengths],
    }
    curves(figure, {name: (angles, line) for name, line in lines.items()}, xlabel="degrees turned")


def capsules(seed: int) -> Capsule:
    return Capsule((1, 28, 28), 10)


def mnist(seed: int) -> Split:
    return inked(seed, "mnist5k")


RECIPES = (
    Recipe(
        name="siamese",
        network="Siamese",
        paper="Bromley et al. 1993",
        problem="two digits: the same or not",
        trial=Fitted(inked, twins, by_pairs, told_apart),
        metric=AUROC,
        threshold=0.96,
        contrast=Contrast(
            "digits it never saw: raw pixels tell more", Fitted(strangers, twins, by_pairs, told_apart), bound=0.82
        ),
        baseline=Baseline(
            "angle between raw pixels",
            Fitted(inked, lambda seed: Siamese(torch.nn.Flatten()), lambda model, data: None, told_apart),
        ),
        picture=pairs,
    ),
    Recipe(
        name="ensemble",
        network="Ensembles",
        paper="Lakshminarayanan, Pritzel & Blundell 2017",
        problem="digits from 200 labels, and how sure one may be",
        trial=Fitted(few_labels, crowd(5), each_for_itself, surprise),
        metric=NLL,
        threshold=0.205,
        contrast=Contrast(
            "five copies of one member",
            Fitted(few_labels, crowd(5), one_for_all, gained),
            bound=0.001,
            metric=Metric("nats gained on a member", True, "{:.3f}"),
        ),
        baseline=Baseline("one MLP", Fitted(few_labels, crowd(1), each_for_itself, surprise)),
        picture=agreed_and_not,
    ),
    Recipe(
        name="capsule",
        network="Capsule",
        paper="Sabour, Frosst & Hinton 2017",
        problem="5,000 of MNIST's digits",
        trial=Fitted(mnist, capsules, by_lengths, longest(0)),
        metric=ACCURACY,
        threshold=0.93,
        contrast=Contrast(
            "digits turned by 45 degrees, seen upright alone", Fitted(mnist, capsules, by_lengths, longest(45)), 0.6
        ),
        baseline=Baseline("CNN", Trained(CNN)),
        slow=True,
        picture=lengths_by_angle,
    ),
)
