"""What is trained on, what is held out, and what it asks of a network."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset


@dataclass(frozen=True)
class Problem:
    """What data asks of a network; kept in every checkpoint.

    Attributes:
        kind: "classes", "values" or "characters".
        shape: of one input.
        outputs: classes, values or characters.
        classes: their names, or the characters themselves.
        mean, std: of the inputs, each of one number or one for each feature; the network itself applies them.
        target_mean, target_std: of values, which the network predicts in standard units.
    """

    kind: str
    shape: tuple[int, ...]
    outputs: int
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    target_mean: float = 0.0
    target_std: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Problem:
        plain: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in values.items()}
        return cls(**plain)


class Tensors(Dataset):
    """Samples that lie in memory, of which a whole batch is taken at once."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        chosen = torch.tensor(indices)
        return self.inputs[chosen], self.targets[chosen]


@dataclass(frozen=True)
class Data:
    """What is trained on, what is held out, and what it asks of a network.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from nnkernels.train import Data
        >>> mine = TensorDataset(torch.randn(100, 5), torch.randint(3, (100,)))
        >>> Data.of(mine, mine, outputs=3).problem.kind
        'classes'
    """

    train: Dataset
    held: Dataset
    problem: Problem

    @classmethod
    def of(cls, train: Dataset, held: Dataset, *, outputs: int, kind: str | None = None) -> Data:
        """Data of your own.

        Args:
            train, held: anything with `len` and samples (input, target): a target is a class number, or the values.
            outputs: how many classes or values there are.
            kind: "classes", "values" or "characters"; by default "classes" if targets are whole numbers, else "values".
        """
        first, target = train[0]
        whole = not torch.as_tensor(target).is_floating_point()
        return cls(train, held, Problem(kind or ("classes" if whole else "values"), tuple(first.shape), outputs))

    def check(self, name: str, batch_size: int) -> None:
        """Raises ValueError, naming the data as `name`, if there are too few samples for a batch, or none to judge."""
        for what, part in (("trained on", self.train), ("held out", self.held)):
            if len(part) == 0:  # type: ignore[arg-type]
                raise ValueError(f"the data {name!r} has no samples that are {what}")
        if batch_size > (size := len(self.train)):  # type: ignore[arg-type]
            raise ValueError(
                f"a batch of {batch_size} is larger than the data {name!r} with its {size} samples; "
                f"choose a batch_size of at most {size}"
            )
