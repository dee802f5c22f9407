"""What a recipe without gradients leaves: a checkpoint, as the trainer's are, for `nnkernels predict` and `export`.

It holds what was learned and the recipe's name, which says what class of network that is.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from ..train.checkpoint import CheckpointError, Checkpoints, check_fields, using
from ..train.data import Problem
from ..train.folder import CHECKPOINTS
from ..train.model import Scale
from ..train.predictor import Predictor
from .estimating import Classifier, Regressor
from .recipe import Recipe
from .recipes import recipe as recipe_called
from .trials import Fitted, Learned, Split


def save(recipe: Recipe, learned: Learned, seed: int, folder: Path) -> Path:
    """Writes what a recipe has learned, whole or not at all; returns the path of the checkpoint.

    Raises:
        OSError: it could not be written.
    """
    problem = learned.data.problem.to_dict() if isinstance(learned.data, Split) else None
    state = {"recipe": recipe.name, "seed": seed, "problem": problem, "model": learned.model.state_dict()}
    return Checkpoints(folder / CHECKPOINTS).save(0, {**state, recipe.metric.name: learned.value}, best=True)


def load(path: Path, state: dict[str, Any]) -> torch.nn.Module:
    """The network that a recipe left, with what it learned.

    Raises:
        CheckpointError: there is no such recipe any more, or its network is another now.
    """
    check_fields(path, state, {"recipe": str, "seed": int, "model": dict})
    with using(path):
        trial = recipe_called(state["recipe"]).trial
        if not isinstance(trial, Fitted):
            raise CheckpointError(f"{path} is of the recipe {state['recipe']!r}, which the trainer trains by now")
        model = trial.model(state["seed"])
        model.load_state_dict(state["model"])
    return model.eval()


def predictor(path: Path, state: dict[str, Any]) -> Predictor:
    """What predicts from data as it is, as `Predictor.load` gives it.

    Raises:
        CheckpointError: see `load`; or the network tells neither classes nor values.
    """
    model = load(path, state)
    if not isinstance(model, Classifier | Regressor) or state.get("problem") is None:
        raise CheckpointError(f"{path} is of a {type(model).__name__}, which predicts neither classes nor values")
    with using(path):
        problem = Problem.from_dict(state["problem"])
    scaled = recipe_called(state["recipe"]).trial.scaled  # type: ignore[attr-defined]
    scale = Scale(problem.mean, problem.std) if scaled else Scale((0.0,), (1.0,))
    parts: OrderedDict[str, torch.nn.Module] = OrderedDict(scale=scale, flat=torch.nn.Flatten(), network=model.float())
    return Predictor(torch.nn.Sequential(parts), problem)
