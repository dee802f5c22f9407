"""Networks on tables: each sample a row of numbers."""

from __future__ import annotations

from ...train.settings import Settings
from ..perceptron import Perceptron
from ..recipe import ACCURACY, Baseline, Contrast, Recipe
from ..trials import Fitted, Trained, sklearn

LOGISTIC = sklearn("linear_model.LogisticRegression", max_iter=5000)

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
    ),
    Recipe(
        name="mlp",
        network="MLP",
        paper="Rumelhart, Hinton & Williams 1986",
        problem="handwritten digits, 8 x 8 pixels",
        trial=Trained(Settings(network="mlp", data="digits", activation="mish", epochs=30)),
        metric=ACCURACY,
        threshold=0.94,
        contrast=Contrast(
            "MNIST-1D: what is shifted looks new",
            Trained(Settings(network="mlp", data="mnist1d", activation="mish", epochs=30)),
            bound=0.75,
        ),
        baseline=Baseline("logistic regression", Fitted("digits", LOGISTIC)),
    ),
)
