"""Which products with an activation a kernel of ours serves, and how it is cut: measured on H100-like chips."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch

from ..contracts.inner import Inner


class Tiles(NamedTuple):
    """How a product's kernel is cut.

    Attributes:
        rows, cols, depth: of a tile's result, and of the step along what is summed.
        group: tiles below each other that are made one after the other.
        parts: in how many parts a tile ends.
        flat: whether the loads of the next tile start while one ends.
        warps, stages: of a program, and steps whose operands are on their way.
        programs: on one multiprocessor at a time.
    """

    rows: int
    cols: int
    depth: int
    group: int
    parts: int
    flat: bool
    warps: int
    stages: int
    programs: int


_SMALL = Tiles(128, 128, 64, 8, 2, True, 4, 3, 2)
_LARGE = Tiles(128, 256, 64, 8, 2, True, 8, 3, 1)


@cache
def knows(device: torch.device) -> bool:
    """Whether the table was measured on such a chip: NVIDIA's of compute capability 9.0."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)


def torch_ends(inner: Inner, stores: bool) -> bool:
    """Whether torch's own product ends with this activation, and rounds it as we do."""
    return inner.name == "relu" and not stores


def of_activation(inner: Inner, stores: bool, rows: int, cols: int, depth: int) -> Tiles | None:
    """How to cut f(x W^T + b), (rows, cols) sums of `depth` products, that `stores` the pre-activation; None: not."""
    return _LARGE if depth > 2048 else _SMALL


def of_maxout(pieces: int, keeps: bool, rows: int, cols: int, depth: int) -> Tiles | None:
    """The same for maxout of `cols` pieces, of which it `keeps` the winners."""
    return _SMALL if pieces in (2, 4, 8, 16) else None
