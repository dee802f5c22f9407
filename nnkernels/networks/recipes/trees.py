"""Probabilistic graphical models: what depends on what, as a tree. They are no neural networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from ...train.datasets import named
from ..chow_liu import ChowLiu, ChowLiuClassifier
from ..recipe import ACCURACY, BITS, Baseline, Contrast, Metric, Recipe
from ..trials import Fitted, Learned, Split, sklearn
from .sequences import parity

NATS = Metric("nats of likelihood", True, "{:.1f}")
PLACES = 4


def texts(seed: int) -> Split:
    """Python's documentation in pieces of four characters, as numbers."""
    found = named("pydoc", PLACES - 1)
    parts: Any = (found.train, found.held)
    train, held = (torch.cat([part.inputs, part.targets[:, -1:]], 1).float().numpy() for part in parts)
    return Split(train, train[:, -1], held[:4000], held[:4000, -1], found.problem)


def bits(model: ChowLiu, data: Split) -> float:
    """What the fourth character costs who knows the three before it."""
    held, characters = torch.from_numpy(data.held_x), data.problem.outputs
    asked = held.repeat_interleave(characters, 0)
    asked[:, -1] = torch.arange(characters).repeat(len(held)).to(asked)
    scores = model.outputs(asked).view(len(held), characters)
    return torch.nn.functional.cross_entropy(scores, held[:, -1].long()).item() / math.log(2)


def fit_each(models: list[ChowLiu], data: Split) -> None:
    for model, column in zip(models, data.x.T, strict=True):
        model.fit(column[:, None])


def score_each(models: list[ChowLiu], data: Split) -> float:
    return sum(model.score(column[:, None]) for model, column in zip(models, data.held_x.T, strict=True))


def tree(learned: Learned, figure: Any) -> None:
    """Which measure depends on which; each is one of ten, as a mean, a deviation or the worst of a patient's cells."""
    import networkx
    from sklearn.datasets import load_breast_cancer

    parents = learned.model.parents[0].tolist()
    names = [name.replace(" ", "\n", 1) for name in load_breast_cancer().feature_names]
    graph = networkx.Graph([(node, parent) for node, parent in enumerate(parents) if node != parent])
    kinds = ["mean" in name.split() for name in names], ["error" in name.split() for name in names]
    color = np.where(kinds[0], "tab:blue", np.where(kinds[1], "tab:orange", "tab:green"))
    places = networkx.kamada_kawai_layout(graph)
    axes = figure.subplots()
    networkx.draw_networkx_edges(graph, places, ax=axes, alpha=0.4)
    for node, (x, y) in places.items():
        axes.text(x, y, names[node], color=color[node], fontsize=7, ha="center", va="center")
    axes.margins(0.08)
    axes.axis("off")


RECIPES = (
    Recipe(
        name="chow-liu",
        network="PGM",
        paper="Chow & Liu 1968",
        problem="how likely a patient's 30 measures are",
        trial=Fitted("breast_cancer", lambda seed: ChowLiu()),
        metric=NATS,
        threshold=-28.0,
        contrast=Contrast(
            "a text: one character alone is asked", Fitted(texts, lambda seed: ChowLiu(None), measure=bits), 3.0, BITS
        ),
        baseline=Baseline(
            "independent measures",
            Fitted("breast_cancer", lambda seed: [ChowLiu() for _ in range(30)], fit_each, score_each),
        ),
        picture=tree,
    ),
    Recipe(
        name="chow-liu-classes",
        network="PGM",
        paper="Chow & Liu 1968",
        problem="breast cancer, a tree for each class",
        trial=Fitted("breast_cancer", lambda seed: ChowLiuClassifier()),
        metric=ACCURACY,
        threshold=0.9,
        contrast=Contrast(
            "parity of 40 bits: no two of them say anything", Fitted(parity, lambda seed: ChowLiuClassifier(None)), 0.6
        ),
        baseline=Baseline("naive Bayes", Fitted("breast_cancer", sklearn("naive_bayes.GaussianNB"))),
    ),
)
