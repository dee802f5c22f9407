"""Networks on tables: each sample a row of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...train.datasets import named
from ...train.generated import values
from ...train.settings import Settings
from ..baselines import Polynomial, squared_error
from ..drawing import curves, fitted_regions, trained_regions
from ..elm import ELMClassifier, ELMRegressor
from ..perceptron import Perceptron
from ..rbf import RBFNetworkClassifier, RBFRegressor
from ..recipe import ACCURACY, MSE, R2, Baseline, Contrast, Recipe
from ..trials import Fitted, Learned, Split, Trained, sklearn, split

LOGISTIC = sklearn("linear_model.LogisticRegression", max_iter=5000)


def sinc(seed: int, reach: float) -> Split:
    """40 noisy samples of sinc in [-3, 3]; held out are true values there, or from 3 to `reach` if that is farther."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.linspace(-3, 3, 40).unsqueeze(1)
    held = torch.linspace(-3, 3, 400) if reach <= 3 else torch.linspace(3, reach, 400)
    y = torch.sinc(x) + 0.005 * torch.randn(x.shape, generator=generator)
    held = held.unsqueeze(1)
    return split(values((x, y), (held, torch.sinc(held))))


def interpolation(seed: int) -> RBFRegressor:
    return RBFRegressor(width=0.4, penalty=1e-2)


def inside_and_outside(learned: Learned, figure: Any) -> None:
    """What the network says, and what is so, where it has samples and where not."""
    x = np.linspace(-6, 6, 400, dtype=np.float32)
    lines = {"sinc": (x, np.sinc(x)), "the network": (x, learned.model.predict(x[:, None]))}
    curves(figure, lines, xlabel="x; the samples lie between -3 and 3")


RECIPES = (
    Recipe(
        name="perceptron",
        network="Perceptron",
        paper="Rosenblatt 1958",
        problem="breast cancer, benign or malignant",
        trial=Fitted("breast_cancer", lambda seed: Perceptron(seed=seed)),
        metric=ACCURACY,
        threshold=0.91,
        contrast=Contrast("XOR: no line parts it", Fitted("xor", lambda seed: Perceptron(seed=seed)), bound=0.75),
        baseline=Baseline("logistic regression", Fitted("breast_cancer", LOGISTIC)),
        picture=fitted_regions,
    ),
    Recipe(
        name="mlp",
        network="MLP",
        paper="Rumelhart, Hinton & Williams 1986",
        problem="handwritten digits, 8 x 8 pixels",
        trial=Trained(Settings(network="mlp", data="digits", activation="mish", epochs=30)),
        metric=ACCURACY,
        threshold=0.95,
        contrast=Contrast(
            "MNIST-1D: what is shifted looks new",
            Trained(Settings(network="mlp", data="mnist1d", activation="mish", epochs=30)),
            bound=0.75,
        ),
        baseline=Baseline("logistic regression", Fitted("digits", LOGISTIC)),
        picture=trained_regions,
    ),
    Recipe(
        name="rbf",
        network="RBF",
        paper="Broomhead & Lowe 1988",
        problem="sinc between 40 noisy samples",
        trial=Fitted(lambda seed: sinc(seed, 3.0), interpolation, measure=squared_error),
        metric=MSE,
        threshold=3e-5,
        contrast=Contrast(
            "outside their range",
            Fitted(lambda seed: sinc(seed, 6.0), interpolation, measure=squared_error),
            bound=1e-3,
        ),
        baseline=Baseline(
            "polynomial of degree 5",
            Fitted(lambda seed: sinc(seed, 3.0), lambda seed: Polynomial(5), measure=squared_error),
        ),
        picture=inside_and_outside,
    ),
    Recipe(
        name="rbfn",
        network="RBFN",
        paper="Moody & Darken 1989",
        problem="handwritten digits, 8 x 8 pixels",
        trial=Fitted("digits", lambda seed: RBFNetworkClassifier(400, seed=seed)),
        metric=ACCURACY,
        threshold=0.96,
        contrast=Contrast(
            "MNIST-1D: nowhere is near",
            Fitted("mnist1d", lambda seed: RBFNetworkClassifier(400, seed=seed)),
            bound=0.7,
        ),
        baseline=Baseline("logistic regression", Fitted("digits", LOGISTIC)),
    ),
    Recipe(
        name="elm",
        network="ELM",
        paper="Huang, Zhu & Siew 2006",
        problem="handwritten digits, 8 x 8 pixels",
        trial=Fitted("digits", lambda seed: ELMClassifier(2000, penalty=10.0, seed=seed)),
        metric=ACCURACY,
        threshold=0.96,
        contrast=Contrast(
            "adding over 60 places",
            Fitted(lambda seed: named("adding", 60), lambda seed: ELMRegressor(seed=seed)),
            bound=0.2,
            metric=R2,
        ),
        baseline=Baseline("logistic regression", Fitted("digits", LOGISTIC)),
    ),
)
