"""The one object that knows in how many processes a run goes on: here in one.

The loop asks it for the device, for its share of a batch and whether it is the process that writes, hands it the model
to wrap and takes states from it; a distributed run replaces this object and nothing else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer


class Processes:
    """A run in one process.

    Attributes:
        rank: which process this is.
        size: how many there are.
        device: where this process computes.
    """

    rank = 0
    size = 1

    def __init__(self, device: str = "auto") -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.device = torch.device(device)
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self.rank == 0

    def wrap(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model as it is called in training: in one process, itself."""
        return model

    def share(self, indices: list[int]) -> list[int]:
        """This process's part of a batch."""
        return indices[self.rank :: self.size]

    def mean(self, value: float, weight: float = 1.0) -> float:
        """The mean over all processes, weighted."""
        return value

    def any(self, reason: str | None) -> str | None:
        """The reason to stop that any process has, so that all stop after the same step."""
        return reason

    def barrier(self) -> None:
        """Waits for the others."""

    def state(self, model: torch.nn.Module, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
        """The whole states of both, as one process would have them."""
        return model.state_dict(), optimizer.state_dict()

    def load(self, model: torch.nn.Module, optimizer: Optimizer, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
        """Puts back what `state` gave."""
        model.load_state_dict(state[0])
        optimizer.load_state_dict(state[1])
