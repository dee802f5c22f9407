"""Which products with an activation a kernel of ours serves on this machine, and how it is cut, as was measured there.

`nnkernels.tune_products` measures; nothing is measured here. A table on disk (`stored.py`) is read once in a process
for each kind of GPU, and an answer found there goes before those of `linear_table`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import torch

from .. import stored
from ..contracts.inner import Inner
from .linear_table import LARGE, SMALL, THRICE, Tiles

CANDIDATES = (
    SMALL,
    THRICE,
    LARGE,
    # For chips without Hopper's copy engine, with 99 KiB of shared memory for a program (8.6, 8.9, 12.0) or 163 (8.0).
    Tiles(128, 128, 32, 8, 2, False, 4, 4, 2),
    Tiles(128, 64, 32, 8, 1, False, 4, 4, 3),
    Tiles(64, 128, 64, 8, 1, False, 4, 3, 2),
    Tiles(128, 128, 64, 8, 2, False, 8, 3, 1),
)
"""Among which is chosen. A table that names others is not believed, since what does not fit would break calls."""

CUDA = "cuda"
"""Of ways, the kernel of `nnkernels/cuda/linear.py`."""

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
FORMAT = 1
"""Of the table, to be counted up when its rows no longer mean what they did."""


class Tuned(NamedTuple):
    """What was fastest: a kernel of Triton's with these tiles, `CUDA`, or, for None, torch's product and what stands
    behind it."""

    way: Tiles | str | None


class Chip(NamedTuple):
    """A kind of GPU, and the compiler for it."""

    name: str
    capability: str
    triton: str

    @property
    def file(self) -> str:
        return f"products-{re.sub('[^A-Za-z0-9]+', '-', self.name)}-{self.capability}.json"

    @property
    def head(self) -> dict[str, Any]:
        return {"format": FORMAT, "gpu": self.name, "capability": self.capability}


class Product(NamedTuple):
    """A class of products: all with so many rows, a power of two, or fewer, down to the power below.

    Attributes:
        dtype, activation, stores: of the call, and whether it stores the pre-activation.
        rows, cols, depth: of the result, and the numbers that each of its elements is a sum of.
    """

    dtype: torch.dtype
    activation: str
    stores: bool
    rows: int
    cols: int
    depth: int


def product(dtype: torch.dtype, inner: Inner, stores: bool, rows: int, cols: int, depth: int) -> Product:
    """The class of a call."""
    return Product(dtype, inner.name, stores, 1 << (rows - 1).bit_length(), cols, depth)


def of_activation(
    device: torch.device, dtype: torch.dtype, inner: Inner, stores: bool, rows: int, cols: int, depth: int
) -> Tuned | None:
    """What was fastest for f(x W^T + b), (rows, cols) sums of `depth` products; None if it was never measured."""
    known = of_device(device)
    return known.get(product(dtype, inner, stores, rows, cols, depth)) if known else None


@cache
def of_device(device: torch.device) -> dict[Product, Tuned]:
    """All that is known of such a GPU, one object for all of a kind."""
    return _of_chip(chip(device)) if device.type == "cuda" else {}


@cache
def _of_chip(chip: Chip) -> dict[Product, Tuned]:
    return dict(filter(None, (_parsed(row, chip) for row in stored.read(chip.file, chip.head))))


@cache
def chip(device: torch.device) -> Chip:
    import triton

    major, minor = torch.cuda.get_device_capability(device)
    return Chip(torch.cuda.get_device_name(device), f"{major}.{minor}", triton.__version__)


def row(which: Product, tuned: Tuned, chip: Chip) -> dict[str, Any]:
    """What the table says of it."""
    return {
        "triton": chip.triton,
        "dtype": str(which.dtype).removeprefix("torch."),
        "activation": which.activation,
        "stores": which.stores,
        "rows": which.rows,
        "in": which.depth,
        "out": which.cols,
        "way": tuned.way._asdict() if isinstance(tuned.way, Tiles) else tuned.way,
    }


def identity(row: Mapping[str, Any]) -> str:
    """What a row is the answer to."""
    return repr([row.get(name) for name in ("triton", "dtype", "activation", "stores", "rows", "in", "out")])


def _parsed(row: Mapping[str, Any], chip: Chip) -> tuple[Product, Tuned] | None:
    """What a row says; None for rows of another version of Triton, and for what nobody here has written."""
    try:
        dtype, way = DTYPES[row["dtype"]], row["way"]
        way = Tiles(**way) if isinstance(way, Mapping) else way
        which = Product(dtype, row["activation"], row["stores"], row["rows"], row["out"], row["in"])
        hash(which)
    except (KeyError, TypeError):
        return None
    if row.get("triton") != chip.triton or way not in (*CANDIDATES, CUDA, None):
        return None
    return which, Tuned(way)
