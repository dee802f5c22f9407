"""Which products with an activation a kernel of ours serves, and how it is cut: measured on H100-like chips."""

from __future__ import annotations

from typing import NamedTuple


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
