"""Data made by a formula: dynamical systems, tasks of memory, and shapes that no straight line parts.

All of it is the same in every run, and no random generator but their own is touched.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .data import Data, Problem, Tensors


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mnist1d() -> dict[str, Any]:
    """MNIST-1D (Greydanus & Kobak 2020) as its package makes it: `x` (4000, 40), `y`, `x_test` (1000, 40), `y_test`."""
    from mnist1d.data import get_dataset_args, make_dataset

    from .batches import seeded

    with seeded(42):  # the package seeds the global generators
        return make_dataset(get_dataset_args())


def mackey_glass(length: int, delay: int = 17, washout: int = 1000) -> Tensor:
    """Mackey & Glass's (1977) chaotic series, one value for each unit of time, in float64.

    x' = 0.2 x(t - delay) / (1 + x(t - delay)^10) - 0.1 x, in Euler steps of 0.1.

    Args:
        length: how many values.
        delay: of the feedback; the series is chaotic from about 17 on.
        washout: values that are thrown away before them.

    Example:
        >>> from nnkernels.train.generated import mackey_glass
        >>> mackey_glass(1000).shape
        torch.Size([1000])
    """
    steps = 10
    series = [1.2] * (delay * steps + 1)
    for _ in range((length + washout) * steps):
        late = series[-delay * steps - 1]
        series.append(series[-1] + (0.2 * late / (1 + late**10) - 0.1 * series[-1]) / steps)
    return torch.tensor(series[-length * steps :: steps], dtype=torch.float64)


def lorenz(length: int, step: float = 0.02, washout: int = 1000) -> Tensor:
    """Lorenz's (1963) attractor, `(length, 3)` in float64, by Runge-Kutta's fourth order.

    Args:
        length: how many points.
        step: time between two of them.
        washout: points that are thrown away before them.
    """

    def slope(at: Tensor) -> Tensor:
        x, y, z = at
        return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])

    at, points = torch.ones(3, dtype=torch.float64), []
    for _ in range(length + washout):
        first = slope(at)
        second = slope(at + step / 2 * first)
        third = slope(at + step / 2 * second)
        at = at + step / 6 * (first + 2 * second + 2 * third + slope(at + step * third))
        points.append(at)
    return torch.stack(points[washout:])


def adding(length: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The adding task (Hochreiter & Schmidhuber 1997): remember two marked numbers over many others, and add them.

    Args:
        length: places of a sequence, at least 2.
        count: sequences.
        seed: of the numbers and marks.

    Returns:
        `(count, length, 2)`, numbers of [0, 1] and marks, one in each half; and `(count, 1)`, the sums. Who always says
        1, their mean, errs by 1/6 in the mean square.
    """
    generator = _generator(seed)
    numbers = torch.rand(count, length, generator=generator)
    marks = torch.zeros(count, length)
    half = length // 2
    for first, size in ((0, half), (half, length - half)):
        marks.scatter_(1, torch.randint(size, (count, 1), generator=generator) + first, 1.0)
    return torch.stack([numbers, marks], -1), (numbers * marks).sum(1, keepdim=True)


def copying(length: int, count: int, bits: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The copy task (Graves et al. 2014): read `length` random vectors, then say them again from memory.

    Args:
        length: vectors of a sequence.
        count: sequences.
        bits: of each vector.
        seed: of the bits.

    Returns:
        `(count, 2 length + 1, bits + 1)`, the vectors, a mark in the last feature, and zeros; and
        `(count, length, bits)`, what the last `length` outputs have to be.
    """
    targets = torch.randint(2, (count, length, bits), generator=_generator(seed)).float()
    inputs = torch.zeros(count, 2 * length + 1, bits + 1)
    inputs[:, :length, :bits] = targets
    inputs[:, length, bits] = 1
    return inputs, targets


def xor(count: int, noise: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points around the corners of a square, opposite corners alike: `(4 count, 2)`, and their classes 0 and 1."""
    corners = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(count, 1)
    points = corners + noise * torch.randn(corners.shape, generator=_generator(seed))
    return points, (corners.sum(1) == 1).long()


def spiral(count: int, turns: float = 1.5, noise: float = 0.02, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two spirals that wind around each other: `(2 count, 2)`, and their classes 0 and 1 in turn."""
    generator = _generator(seed)
    radius = torch.rand(count, 1, generator=generator).sqrt().repeat(1, 2).flatten()
    side = torch.arange(2).repeat(count)
    angle = 2 * math.pi * turns * radius + math.pi * side
    points = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
    return points + noise * torch.randn(points.shape, generator=generator), side


def forecast(series: Tensor, window: int, ahead: int = 1) -> tuple[Tensor, Tensor]:
    """Windows of a series and what comes after each.

    Args:
        series: `(length,)` or `(length, features)`.
        window: places of a window.
        ahead: how many places later the target lies.

    Returns:
        `(windows, window, features)` and `(windows, features)`.
    """
    series = series if series.ndim == 2 else series.unsqueeze(1)
    windows = series.unfold(0, window, 1).transpose(1, 2)[: len(series) - window - ahead + 1]
    return windows.contiguous(), series[window + ahead - 1 :]


def values(train: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor]) -> Data:
    """Inputs and targets as they are, to be trained on and held out: nothing is scaled."""
    (inputs, targets), outputs = train, train[1].shape[-1]
    problem = Problem("values", tuple(inputs.shape[1:]), outputs)
    return Data(Tensors(inputs, targets), Tensors(*held), problem)


def cut(pair: tuple[Tensor, Tensor]) -> Data:
    """The first four fifths of a series' windows to be trained on, the last to be held out, in float32."""
    inputs, targets = (one.float() for one in pair)
    at = len(inputs) - len(inputs) // 5
    return values((inputs[:at], targets[:at]), (inputs[at:], targets[at:]))
