"""A trained network, as it is used: from data as it is to probabilities, values or text."""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoint import CheckpointError, Checkpoints, check_tensors, read
from .choices import OWN
from .data import Problem
from .model import network
from .settings import Settings


class Predictor(torch.nn.Module):
    """A network and what its outputs mean.

    Args:
        model: the trained network.
        problem: what it was trained for.

    Shape: what the network takes, to probabilities `(batch, classes)`, values `(batch, values)` in the data's units, or
        the probabilities of the next character at each place, `(batch, places, characters)`.

    Example:
        >>> import torch
        >>> from nnkernels.train import Problem
        >>> from nnkernels.train.predictor import Predictor
        >>> Predictor(torch.nn.Identity(), Problem("classes", (2,), 2, ("cat", "dog")))(torch.zeros(1, 2))
        tensor([[0.5000, 0.5000]])
    """

    def __init__(self, model: torch.nn.Module, problem: Problem) -> None:
        super().__init__()
        self.model, self.problem = model.eval(), problem

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.model(x)
        if self.problem.kind == "values":
            return outputs * self.problem.target_std + self.problem.target_mean
        return torch.softmax(outputs, -1)

    @property
    def dtype(self) -> torch.dtype:
        """Of the numbers that it takes."""
        return self._weight.dtype

    @property
    def _weight(self) -> Tensor:
        """Any one; what was not learned by gradients are buffers."""
        return next(chain(self.model.parameters(), self.model.buffers()))

    @classmethod
    def load(cls, path: Path, model: torch.nn.Module | None = None) -> Predictor:
        """The network of a checkpoint, or the best of a run's folder; with the mean weights where there are such.

        Args:
            path: a checkpoint, or the folder of a run.
            model: an untrained network of your own, if the checkpoint is of such.

        Raises:
            CheckpointError: there is no checkpoint, none is whole, or it is of another network.
        """
        path, state = _found(path)
        if "recipe" in state:
            from ..networks.keeping import predictor

            return predictor(path, state)
        settings, problem, weights = _parts(path, state)
        if model is None and settings.data == OWN:
            raise CheckpointError(f"{path} is of a network or data of your own; give the network as `model`")
        try:
            with torch.device("meta"):  # a network of any size takes no memory there
                described = model or network(settings, problem)
        except (ValueError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{path} describes a network that cannot be made: {error}") from error
        check_tensors(path, weights, described)
        made = model or network(settings, problem)
        made.load_state_dict(weights)
        return cls(made, problem)

    def check(self, x: Tensor) -> Tensor:
        """`x` as a batch of the right shape and type.

        A single input is a batch of one; inputs may be flat, or lack dimensions of size 1.

        Raises:
            ValueError: it is no such batch, or holds numbers that are not finite in the network's type.
        """
        shape, given = self.problem.shape, tuple(x.shape)
        size = torch.Size(shape).numel()
        forms = (shape, tuple(length for length in shape if length != 1), (size,))
        if x.numel() == 0 or (given not in forms and given[1:] not in forms):
            raise ValueError(f"one input has the shape {shape}, {size} numbers; got a tensor of shape {given}")
        batch = x.reshape(-1, *shape).to(self._weight.device, self.dtype)
        bad = (~batch.isfinite()).reshape(len(batch), -1).nonzero()
        if len(bad):
            number, place = bad[0].tolist()
            value = x.reshape(-1, size)[number, place].item()
            raise ValueError(f"input {number + 1} holds {value} at place {place + 1}; the network takes finite numbers")
        return batch

    @torch.no_grad()
    def write(self, prompt: str, length: int, temperature: float = 0.8, seed: int = 0) -> str:
        """Goes on with a text.

        Args:
            prompt: its beginning, of known characters.
            length: how many characters are added.
            temperature: 0 always takes the likeliest character; 1 follows the probabilities. Finite, and at least 0.
            seed: of the choice.

        Raises:
            ValueError: the network does not write, or does not know a character of the prompt.
        """
        if self.problem.kind != "characters":
            raise ValueError(f"this network was trained on {self.problem.kind}, it writes no text")
        alphabet = self.problem.classes
        unknown = [character for character in prompt if character not in alphabet]
        if unknown or not prompt:
            raise ValueError(f"the prompt has to be of known characters, got {prompt!r}; not known: {unknown}")
        generator = torch.Generator().manual_seed(seed)
        written = [alphabet.index(character) for character in prompt]
        (context,) = self.problem.shape
        for _ in range(length):
            likely = self(torch.tensor([written[-context:]]))[0, -1]
            if temperature == 0:
                written.append(int(likely.argmax()))
            else:
                weights = torch.softmax(likely.log() / temperature, 0)  # a power would underflow at low temperatures
                written.append(int(torch.multinomial(weights, 1, generator=generator)))
        return "".join(alphabet[number] for number in written)


def _parts(path: Path, state: dict[str, Any]) -> tuple[Settings, Problem, dict[str, Tensor]]:
    """The settings, the problem and the weights of a checkpoint, each of its kind.

    Raises:
        CheckpointError: one is missing or is something else; the message names it.
    """
    for name in ("settings", "problem", "model", "average"):
        if name not in state:
            raise CheckpointError(f"{path} has no {name!r}: it is no whole checkpoint of this trainer")
    try:
        settings = Settings.from_dict(state["settings"])
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} has settings that are refused: {error}") from error
    try:
        problem = Problem.from_dict(state["problem"])
    except (TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} does not say what the network is for: {error}") from error
    _check_problem(path, problem)
    weights = state["model"]
    if state["average"] is not None and isinstance(weights := state["average"], dict):
        prefix = "module."
        weights = {key.removeprefix(prefix): one for key, one in weights.items() if str(key).startswith(prefix)}
    if not isinstance(weights, dict) or not all(isinstance(one, Tensor) for one in weights.values()):
        raise CheckpointError(f"{path} has no weights, but something else in their place")
    return settings, problem, weights


def _check_problem(path: Path, problem: Problem) -> None:
    """Raises CheckpointError, which names it, for a part of the problem that no trainer writes."""
    writes, shape, classes = problem.kind == "characters", problem.shape, problem.classes

    def all_of(kind: Any, values: Any) -> bool:
        return isinstance(values, tuple) and all(isinstance(one, kind) for one in values)

    right = {
        "kind": problem.kind in ("classes", "values", "characters"),
        "shape": all_of(int, shape) and all(one > 0 for one in shape) and (len(shape) == 1 or not writes),
        "outputs": isinstance(problem.outputs, int) and problem.outputs > 0,
        "classes": all_of(object, classes) and (len(classes) == problem.outputs or not (classes or writes)),
        "mean": all_of(float | int, problem.mean),
        "std": all_of(float | int, problem.std),
        "target_mean": isinstance(problem.target_mean, float | int),
        "target_std": isinstance(problem.target_std, float | int),
    }
    for name, ok in right.items():
        if not ok:
            raise CheckpointError(f"{path} says {getattr(problem, name)!r} of the network's {name}")


def _found(path: Path) -> tuple[Path, dict]:
    if not path.is_dir():
        return path, read(path)
    checkpoints = Checkpoints(path / "checkpoints" if (path / "checkpoints").is_dir() else path)
    found = checkpoints.newest(_tell, "best") or checkpoints.newest(_tell)
    if found is None:
        raise CheckpointError(f"there is no checkpoint in {path}")
    return found


def _tell(what: str) -> None:
    print(what, file=sys.stderr)
