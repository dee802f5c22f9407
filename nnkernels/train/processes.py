"""The one object that knows in how many processes a run goes on: here in one.

The loop asks it for the device, for its share of a batch and whether it is the process that writes, hands it the model
to wrap and takes states from it; `Distributed` replaces this object and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.optim import Optimizer

from .contexts import set_random_state

if TYPE_CHECKING:
    from .settings import Settings

T = TypeVar("T")


class Processes:
    """A run in one process.

    Attributes:
        rank: which share of each batch this process takes.
        size: into how many shares a batch is cut.
        is_main: whether this process writes logs and checkpoints.
        divides: whether a process holds no more than its part of the network, so that all have to call it together.
        restarted: whether the run goes on by itself, after a process of it died.
        device: where this process computes.
    """

    rank = 0
    size = 1
    is_main = True
    divides = False
    restarted = False

    def __init__(self, device: str = "auto") -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.device = torch.device(device)
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error

    def divide(self, model: torch.nn.Module) -> None:
        """Leaves of the model what this process holds: in one process, all of it."""

    def wrap(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model as it is called in training: in one process, itself."""
        return model

    def share(self, indices: list[int]) -> list[int]:
        """This process's part of a batch, at least one sample; it counts as many as `count` says, which may be none."""
        return indices[self.rank :: self.size] or indices[:1]

    def count(self, samples: int) -> int:
        """How many samples of a batch of so many are this process's."""
        return len(range(self.rank, samples, self.size))

    def weight(self, samples: int) -> float:
        """What the mean loss of this process's part is multiplied by: the mean over processes is then the batch's."""
        return self.size * self.count(samples) / samples

    def mean(self, value: float, weight: float = 1.0) -> float:
        """The mean over all processes, weighted."""
        return value

    def any(self, signal: str | None) -> str | None:
        """The signal to stop that any process got, so that all stop after the same step."""
        return signal

    def barrier(self) -> None:
        """Waits for the others."""

    def agreed(self, decide: Callable[[], T]) -> T:
        """What the main process decides, in all of them; or the exception that it raises."""
        return decide()

    def means(self, values: list[float]) -> list[float]:
        """The mean over all processes of each value."""
        return values

    def gathered(self, value: T) -> list[T]:
        """The value of each process."""
        return [value]

    def seed(self, seed: int) -> None:
        """Starts the generators of what is drawn in training (dropout), once the weights are drawn."""

    def restore_random(self, states: list[dict[str, Any]]) -> None:
        """Puts the generators back to where each process's were, told those of all."""
        set_random_state(states[0])

    def clip(self, weights: list[torch.nn.Parameter], norm: float) -> None:
        """Scales the gradients so that their norm is at most `norm`."""
        torch.nn.utils.clip_grad_norm_(weights, norm)

    def weights(self, model: torch.nn.Module) -> dict[str, Any]:
        """The whole state of the model, as one process has it; where it is divided, in the main process only."""
        return model.state_dict()

    def load_weights(self, model: torch.nn.Module, weights: dict[str, Any]) -> None:
        """Puts back what `weights` gave."""
        model.load_state_dict(weights)

    def optimizer_state(self, model: torch.nn.Module, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state of the optimiser, as one process has it; where it is divided, in the main process only."""
        return optimizer.state_dict()

    def load_optimizer(self, model: torch.nn.Module, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Puts back what `optimizer_state` gave."""
        optimizer.load_state_dict(state)

    def close(self) -> None:
        """Parts from the others."""


def joined(settings: Settings) -> Processes:
    """This process alone, or with those that torchrun started beside it.

    Raises:
        ValueError: the device cannot be used, or so many processes cannot be divided as the settings say.
        RuntimeError: the others cannot be reached.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        from .distributed import Distributed

        return Distributed(settings)
    if settings.tensor_parallel > 1:
        raise ValueError(
            f"tensor_parallel {settings.tensor_parallel} needs as many processes: start with "
            f"torchrun --nproc-per-node {settings.tensor_parallel} -m nnkernels train ..."
        )
    return Processes(settings.device)
