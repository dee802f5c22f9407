"""A trained network, as it is used: from data as it is to probabilities, values or text."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import CheckpointError, Checkpoints, check_tensors, read
from .data import OWN, Problem
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
        settings, problem = Settings.from_dict(state["settings"]), Problem.from_dict(state["problem"])
        if model is None and settings.data == OWN:
            raise CheckpointError(f"{path} is of a network or data of your own; give the network as `model`")
        made = model or network(settings, problem)
        weights = state["model"]
        if state["average"] is not None:
            prefix = "module."
            weights = {key.removeprefix(prefix): one for key, one in state["average"].items() if key.startswith(prefix)}
        check_tensors(path, weights, made)
        made.load_state_dict(weights)
        return cls(made, problem)

    def check(self, x: Tensor) -> Tensor:
        """`x` as a batch of the right shape and type; a single input and flat ones are given their shape.

        Raises:
            ValueError: it is no such batch.
        """
        shape = self.problem.shape
        size = torch.Size(shape).numel()
        if x.numel() == 0 or x.numel() % size or (x.ndim > 1 and x.shape != shape and x[0].numel() != size):
            raise ValueError(f"one input has the shape {shape}, {size} numbers; got a tensor of shape {tuple(x.shape)}")
        weight = next(self.model.parameters())
        return x.reshape(-1, *shape).to(weight.device, weight.dtype)

    @torch.no_grad()
    def write(self, prompt: str, length: int, temperature: float = 0.8, seed: int = 0) -> str:
        """Goes on with a text.

        Args:
            prompt: its beginning, of known characters.
            length: how many characters are added.
            temperature: 0 always takes the likeliest character; 1 follows the probabilities.
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
                written.append(int(torch.multinomial(likely.pow(1 / temperature), 1, generator=generator)))
        return "".join(alphabet[number] for number in written)


def _found(path: Path) -> tuple[Path, dict]:
    if not path.is_dir():
        return path, read(path)
    checkpoints = Checkpoints(path / "checkpoints" if (path / "checkpoints").is_dir() else path)
    found = checkpoints.newest(kind="best") or checkpoints.newest()
    if found is None:
        raise CheckpointError(f"there is no checkpoint in {path}")
    return found
