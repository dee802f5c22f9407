"""What a range of values costs an activation on the CPU: tensors filled from one range, beside the usual one.

Subnormal numbers, overflow and NaN may make an instruction several times slower; no activation shall show it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from nnkernels import accuracy, dispatch
from nnkernels.registry import Activation

SIZE = 2**15
USUAL = (-3.0, 3.0)
FILLS = (1e-40, 1e-38, 1e30, math.inf)
RANGES = [(float(low), low + 1.0) for low in range(-130, 130)]
RANGES += [(sign * fill, sign * fill) for fill in FILLS for sign in (1, -1)] + [(math.nan, math.nan)]
BAR = 1.5
"""How many times the usual a range may cost."""


def slowest(row: Activation, dtype: torch.dtype, rounds: int = 15) -> dict[str, tuple[float, float]]:
    """For each way the worst ratio of a range's time to the usual one's, and the range's lower end.

    The two alternate, on one thread, and each keeps its best round.
    """
    usual = _filled(*USUAL, dtype)
    found = {}
    for way in ("forward", "backward"):
        ratios = {}
        for low, high in RANGES:
            best = [math.inf, math.inf]
            calls = [_call(row, way, x) for x in (usual, _filled(low, high, dtype))]
            for _ in range(rounds):
                best = [min(old, _seconds(call)) for old, call in zip(best, calls, strict=True)]
            ratios[low] = best[1] / best[0]
        worst = max(ratios, key=lambda low: ratios[low])
        found[way] = (ratios[worst], worst)
    return found


def lines(rows: list[Activation], dtype: torch.dtype, rounds: int) -> Iterator[str]:
    """The table, and at its end what is above the bar."""
    above = []
    for row in rows:
        found = slowest(row, dtype, rounds)
        yield f"{row.name:17} {str(dtype)[6:]:9}" + "".join(
            f"   {way} {ratio:5.2f} x the usual, at {low:g}" for way, (ratio, low) in found.items()
        )
        above += [f"{row.name} {way} {ratio:.2f}" for way, (ratio, _) in found.items() if ratio > BAR]
    yield f"above {BAR} x the usual: {', '.join(above) or 'none'}"


def _filled(low: float, high: float, dtype: torch.dtype) -> Tensor:
    if low == high or math.isnan(low):
        return torch.full((SIZE,), low, dtype=dtype)
    return torch.empty(SIZE).uniform_(low, high, generator=torch.Generator().manual_seed(0)).to(dtype)


def _call(row: Activation, way: str, x: Tensor) -> Callable[[], object]:
    backend, (a, b) = dispatch.select(row.name, x), accuracy.constants_of(row)
    if way == "forward":
        return lambda: backend.forward(row.name, x, a, b)
    grad = torch.ones_like(x)
    return lambda: backend.backward(row.name, grad, x, a, b)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
