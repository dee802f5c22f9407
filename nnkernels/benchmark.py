"""Times an activation against torch's on this machine, after the same case has passed its correctness check."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from . import accuracy, dispatch, functional
from .counterparts import peer
from .registry import Activation

_ROUND = 2e-3
"""Seconds of calls for one reading."""

_CYCLES = 2e9
"""Of a GPU in a second, at most."""


@dataclass(frozen=True)
class Comparison:
    """Times in nanoseconds per element, torch's and ours, and the worst errors found just before, in ulp."""

    name: str
    dtype: str
    accuracy: accuracy.Accuracy
    eager_forward: float
    ours_forward: float
    eager_backward: float
    ours_backward: float

    @property
    def forward_ratio(self) -> float:
        """How many times faster than torch; above 1 is faster."""
        return self.eager_forward / self.ours_forward

    @property
    def backward_ratio(self) -> float:
        return self.eager_backward / self.ours_backward


def ours(row: Activation) -> Callable[[Tensor], Tensor]:
    """The row's public function with its default constants."""
    constants = accuracy.constants_of(row)[: len(row.parameters)]
    function = functional.function_of(row)
    return lambda x: function(x, *constants)


def compare(
    row: Activation,
    dtype: torch.dtype,
    size: int = 2**17,
    device: str = "cpu",
    rounds: int = 9,
    other: Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]] = lambda function: function,
) -> Comparison:
    """Checks the row, then times it and its peer in alternating rounds of one process, keeping each one's best round.

    Args:
        row: the activation.
        dtype: of the tensors.
        size: elements; the default stays in the cache.
        device: "cpu" or "cuda".
        rounds: how often the two sides alternate.
        other: what is done to torch's function before it is timed, `torch.compile` for instance.

    Raises:
        ValueError: torch has neither a namesake nor a known composition for the row.
    """
    theirs = peer(row)
    if theirs is None:
        raise ValueError(f"nothing to compare {row.name} with: give its row in the catalogue a peer")
    found = accuracy.measure(
        row, dispatch.select(row.name, torch.empty(size, dtype=dtype, device=device)), dtype, device
    )
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(size, generator=generator).to(device, dtype) for _ in range(2))
    sides = (other(theirs), ours(row))
    with torch.no_grad():
        forward = best_of_rounds([partial(side, x) for side in sides], rounds, device)
    backward = best_of_rounds([backward_of(side, x, grad) for side in sides], rounds, device)
    per_element = [1e9 * seconds / size for seconds in (*forward, *backward)]
    return Comparison(row.name, str(dtype)[6:], found, *per_element)


def geometric_mean(ratios: Iterable[float]) -> float:
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logs) / len(logs))


def backward_of(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> Callable[[], object]:
    """A call that takes the gradient of `function` at `x` again and again, from one graph."""
    leaf = x.detach().requires_grad_()
    y = function(leaf)
    return lambda: torch.autograd.grad(y, leaf, grad, retain_graph=True)


def best_of_asking(calls: list[Callable[[], object]], rounds: int = 3, each: int = 8) -> list[float]:
    """Seconds for which one call of each keeps the host, whatever the GPU is left to do, from the best of the rounds.

    Args:
        calls: what is timed, which asks a GPU for little enough to be queued.
        rounds: in which they alternate.
        each: how often each is called in a round.
    """
    best = [math.inf] * len(calls)
    for turn in range(1 + rounds):  # of which the first is for what is made or recorded in first calls
        for i, call in enumerate(calls):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(each):
                call()
            if turn:
                best[i] = min(best[i], (time.perf_counter() - start) / each)
    return best


def best_of_rounds(calls: list[Callable[[], object]], rounds: int, device: str, queued: bool = False) -> list[float]:
    """Seconds for one call of each, from the best of the rounds in which they alternate.

    Args:
        calls: what is timed.
        rounds: how often each has its turn.
        device: "cpu" or "cuda".
        queued: whether only the GPU's own time counts, as where the host is ahead of it.
    """
    each = [max(_seconds(call, 2, device), 1e-7) for call in calls]
    repeats = [max(1, int(_ROUND / one)) for one in each]
    best = [math.inf] * len(calls)
    gc.disable()
    try:
        for _ in range(rounds):
            for i, call in enumerate(calls):
                turn = _queued_seconds(call, repeats[i], each[i]) if queued else _seconds(call, repeats[i], device)
                best[i] = min(best[i], turn)
    finally:
        gc.enable()
    return best


def _seconds(call: Callable[[], object], repeats: int, device: str) -> float:
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize()
    return (time.perf_counter() - start) / repeats


def _queued_seconds(call: Callable[[], object], repeats: int, each: float) -> float:
    """The GPU's time for a call, which the host has queued, in about `each` seconds, before the GPU gets to it."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(int(1.5 * repeats * each * _CYCLES))
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / repeats
