"""All recipes. Each file of this folder has a tuple `RECIPES`; a new file is found by itself."""

from __future__ import annotations

import importlib
import pkgutil

from ...names import check
from ..recipe import Recipe

GUIDE = (
    "Perceptron",
    "MLP",
    "CNN",
    "RNN",
    "LSTM",
    "GRU",
    "GAN",
    "Autoencoder",
    "Hopfield",
    "RBF",
    "RBFN",
    "Transformer",
    "Attention",
    "Attention-based",
    "Siamese",
    "Capsule",
    "NTM",
    "DNC",
    "RBM",
    "DBN",
    "SOM",
    "ELM",
    "Ensembles",
    "Hybrid",
    "Fuzzy",
    "Modular",
    "Echo state",
    "Spiking",
    "PGM",
    "GNN",
    "Neural ODE",
)
"""The networks that the guide names, in its order."""


def _found() -> dict[str, Recipe]:
    files = [importlib.import_module(f"{__name__}.{one.name}") for one in pkgutil.iter_modules(__path__)]
    rows = [row for file in files for row in file.RECIPES]
    return {row.name: row for row in sorted(rows, key=lambda row: (GUIDE.index(row.network), row.name))}


RECIPES: dict[str, Recipe] = _found()


def recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        ValueError: there is none; the message has those there are.

    Example:
        >>> from nnkernels.networks.recipes import recipe
        >>> recipe("perceptron").paper
        'Rosenblatt 1958'
    """
    check("recipe", name, RECIPES)
    return RECIPES[name]
