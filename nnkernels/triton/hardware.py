"""What Triton's kernels run on: a guard, how many multiprocessors there are, and the tile that suits most kernels."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from functools import cache
from typing import Any

import torch

# 128 threads share 8 KiB of the one input, or 4 KiB of each of several: four 16-byte loads in flight for each thread,
# and no spilling in any row.
NUM_WARPS = 4
TILE_BYTES = 8192


@cache
def has_triton() -> bool:
    """Whether it can be imported, which this does not do."""
    return importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def guard(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Makes `device` the current one, for a launch."""
    if device.type == "cpu" or device.index == torch.accelerator.current_device_index():
        return contextlib.nullcontext()
    return torch.get_device_module(device).device(device)


@cache
def multiprocessors(device: torch.device) -> int:
    """How many the device has; 2 stand for them under the interpreter."""
    return 2 if interpreted() else properties(device)["multiprocessor_count"]


@cache
def shared_memory(device: torch.device) -> int:
    """Bytes of it that one program may have."""
    return 2**17 if interpreted() else properties(device)["max_shared_mem"]


def properties(device: torch.device) -> dict[str, int]:
    """What Triton's driver tells of the device."""
    from triton.runtime import driver

    index = torch.accelerator.current_device_index() if device.index is None else device.index
    return driver.active.utils.get_device_properties(index)
