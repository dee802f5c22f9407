"""Which products with an activation a kernel of ours serves, and how it is cut.

Measured on an H200, and used on all chips of compute capability 9.0.
"""

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


SMALL = Tiles(128, 128, 64, 8, 2, True, 4, 3, 2)
THRICE = Tiles(128, 128, 64, 8, 4, True, 4, 2, 3)
LARGE = Tiles(128, 256, 64, 8, 2, True, 8, 3, 1)

# On an H200 a product that sums more numbers is as fast by cuBLAS and a kernel in its place, and so is a smaller one.
_DEPTHS = range(256, 1025)
_FEW = 512  # numbers in a sum, so that a tile's end takes as long as the rest and three programs take turns
_LEAST_SIDE = 1024
_LEAST = 2**23
_LEAST_STORED = 2**24
_SHORT = frozenset({"hardtanh", "leaky_relu", "relu6", "relu_squared", "threshold", "thresholded_relu"})
# Whose instructions outweigh what the second pass would cost: in large tiles and if nothing but the result is stored.
_LONG = frozenset({"celu", "elu", "mish", "selu", "softplus", "sqrtsoftplus", "tanh"})
_LONGEST = frozenset({"softcap", "tanhshrink"})
_MOST_PIECES = 8


@cache
def knows(device: torch.device) -> bool:
    """Whether the table was measured on such a chip: NVIDIA's of compute capability 9.0."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)


def torch_ends(inner: Inner) -> bool:
    """Whether cuBLAS ends a product with this activation as right as we do; in its gelu the tail has no digits."""
    return inner.name == "relu"


def of_activation(inner: Inner, stores: bool, rows: int, cols: int, depth: int) -> Tiles | None:
    """How to cut f(x W^T + b), (rows, cols) sums of `depth` products, that `stores` the pre-activation; None: not."""
    if not _pays(rows, cols, depth) or inner.name in _LONGEST:
        return None
    if not stores:
        if inner.name in _LONG:
            return LARGE
        return THRICE if depth <= _FEW and inner.name not in _SHORT else SMALL
    return SMALL if rows * cols >= _LEAST_STORED and inner.name not in _LONG else None


def of_maxout(pieces: int, rows: int, cols: int, depth: int) -> Tiles | None:
    """The same for the greatest of each `pieces` of `cols`, with or without the winners."""
    fits = pieces <= _MOST_PIECES and pieces & (pieces - 1) == 0 and cols // pieces % 8 == 0
    return LARGE if fits and _pays(rows, cols, depth) else None


def _pays(rows: int, cols: int, depth: int) -> bool:
    return depth in _DEPTHS and min(rows, cols) >= _LEAST_SIDE and rows * cols >= _LEAST
