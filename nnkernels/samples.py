"""One call of each activation that is not stateless and elementwise, and of each fused form, from the catalogue's rows.

It is what `check` and the tests evaluate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from . import functional
from .registry import Row


@dataclass(frozen=True)
class Sample:
    """`call(*inputs(dtype, device))` is the activation; every input has a gradient.

    `slack` is how many times the promised limit the gradient may be off.
    """

    call: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]
    slack: float = 1.0

    def inputs(self, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
        """Evenly spread numbers of mixed sign in a fixed random order, the first tensor's up to +-4."""
        generator = torch.Generator().manual_seed(0)
        found: list[Tensor] = []
        for shape in self.shapes:
            count = torch.Size(shape).numel()
            spread = (torch.arange(count, dtype=torch.float64) + 0.5) / count * 2 - 1
            mixed = spread[torch.randperm(count, generator=generator)].view(shape)
            found.append((mixed * (1 if found else 4)).to(device, dtype))
        return tuple(found)


def sample_of(row: Row) -> Sample:
    """The row's example, as a call of the public function.

    Raises:
        ValueError: the row has none, as stateless rows, which are evaluated over their whole range.

    Example:
        >>> import nnkernels
        >>> sample = sample_of(nnkernels.activation("softmax"))
        >>> sample.call(*sample.inputs(torch.float32, "cpu")).shape
        torch.Size([3, 5, 4])
    """
    if row.example is None:
        raise ValueError(f"{row.name!r}, a {type(row).__name__} row, has no example: give it one in the catalogue")
    return Sample(partial(row.example.call, functional), row.example.shapes, row.example.slack)
