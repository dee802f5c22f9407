"""A GPU that is made up, of which nothing is known until a test has it kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DEVICE
from triton_tools import HAS_TRITON, INTERPRETED

from nnkernels import products
from nnkernels.contracts.inner import Inner
from nnkernels.triton import linear_tuned
from nnkernels.triton.linear_tuned import Chip, Tuned

KIND = Chip("NVIDIA Made-Up 9 (80 GB)", "8.0", "3.8.0")
GELU, SILU, RELU = (Inner(name, 0.0, 0.0) for name in ("gelu", "silu", "relu"))
SHAPE = 50, 40, 72  # rows, in and out: of which the class has 64 rows
BF16 = torch.bfloat16

plain = pytest.mark.skipif(INTERPRETED or not HAS_TRITON, reason="needs Triton, and is not of its interpreter")


def cache_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where tables are written in place of the user's cache directory."""
    monkeypatch.setenv("NNKERNELS_CACHE", str(folder / "cache"))
    return folder / "cache"


def make_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' device stands for such a GPU, in a process that has just begun."""
    known: dict[str, Any] = {}
    monkeypatch.setattr(linear_tuned, "chip", lambda device: KIND)
    monkeypatch.setattr(linear_tuned, "of_device", lambda device: known.setdefault("all", fresh()))
    monkeypatch.setattr(products, "_gpu", lambda device: torch.device(DEVICE))


def fresh(chip: Chip = KIND) -> dict[Any, Tuned]:
    """What a process that begins now would know."""
    return linear_tuned._of_chip.__wrapped__(chip)


def keep(tuned: Tuned, inner: Inner = SILU, stores: bool = False, rows: int = 50) -> None:
    case = products._Case((rows, *SHAPE[1:]), inner, stores)
    found = products.TunedProduct(case.shape, inner.name, stores, 12.5, 10.0, tuned.way)
    products._keep(case, found, BF16, torch.device(DEVICE))


def answer(inner: Inner = SILU, stores: bool = False, rows: int = 50, dtype: torch.dtype = BF16) -> Tuned | None:
    return linear_tuned.of_activation(torch.device(DEVICE), dtype, inner, stores, rows, 72, 40)
