"""The order of the samples, and what loads them.

The order depends on the seed and the epoch alone, and random numbers that a data set draws depend on the batch alone.
So a run sees the same batches whatever the number of workers, and goes on in the middle of an epoch by starting there.
"""

from __future__ import annotations

import contextlib
import random
import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from .data import Tensors
from .processes import Processes


class Draw(NamedTuple):
    """One batch: which samples, and the seed of what the data set draws for them."""

    seed: int
    indices: list[int]


class Order(Sampler):
    """The batches of one epoch from the batch `first` on.

    Args:
        samples: how many there are.
        batch_size: samples of one batch, over all processes; the last one may be smaller.
        seed: of the order; None keeps that of the data.
        processes: takes its share of each batch.
    """

    def __init__(self, samples: int, batch_size: int, seed: int | None, processes: Processes) -> None:
        self.samples, self.batch_size, self.seed, self.processes = samples, batch_size, seed, processes
        self.epoch = self.first = 0

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    def size(self, batch: int) -> int:
        """The samples of one batch, over all processes."""
        return min(self.batch_size, self.samples - batch * self.batch_size)

    def indices(self, epoch: int, batch: int) -> list[int]:
        """The samples of one batch, over all processes."""
        return self._order(epoch)[batch * self.batch_size : (batch + 1) * self.batch_size]

    def __iter__(self) -> Iterator[Draw]:
        order = self._order(self.epoch)
        for batch in range(self.first, len(self)):
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            rank = [self.processes.rank] if self.processes.rank else []
            yield Draw(_mixed(self.seed or 0, self.epoch, batch, *rank), self.processes.share(chosen))

    def _order(self, epoch: int) -> list[int]:
        if self.seed is None:
            return list(range(self.samples))
        generator = torch.Generator().manual_seed(_mixed(self.seed, epoch))
        return torch.randperm(self.samples, generator=generator).tolist()


def _mixed(*numbers: int) -> int:
    """One seed of 63 bits made of several numbers, with no visible relation between neighbours: SplitMix64's finish."""
    mixed = 0
    for number in numbers:
        mixed = (mixed + number + 0x9E3779B97F4A7C15) % 2**64
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
        mixed ^= mixed >> 31
    return mixed >> 1


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The random generators of torch, numpy and Python start at `seed`, and afterwards go on where they were."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


class _Drawn(Dataset):
    """A data set that takes a `Draw` for a batch."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getitems__(self, draw: Draw) -> Any:
        if isinstance(self.inner, Tensors):  # draws nothing
            return self.inner.__getitems__(draw.indices)
        with seeded(draw.seed):
            if hasattr(self.inner, "__getitems__"):
                return self.inner.__getitems__(draw.indices)
            return [self.inner[index] for index in draw.indices]


def _collated(samples: Any) -> Any:
    return samples if isinstance(samples, tuple) else default_collate(samples)


def _in_worker(worker: int) -> None:
    """Ctrl-C reaches the whole group of processes: the training process alone decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def loader(dataset: Dataset, order: Order, workers: int, device: torch.device) -> DataLoader:
    """Batches of `dataset` in `order`, collated, in pinned memory where they go to a GPU."""
    return DataLoader(
        _Drawn(dataset),
        batch_sampler=order,  # type: ignore[arg-type]
        collate_fn=_collated,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_in_worker,
        generator=torch.Generator(),  # so that loading never draws from the generator that dropout draws from
    )
