"""Step times, memory, and the communication that computing does not hide, read from a profiler's trace."""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

Spans = list[tuple[float, float]]


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def step_seconds(step: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median time of a step among several in a row, on the device's own clock where it has one."""
    if device.type != "cuda":
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            step()
            times.append(time.perf_counter() - began)
        return statistics.median(times)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        step()
        mark.record()
    torch.cuda.synchronize(device)
    return statistics.median(one.elapsed_time(other) for one, other in itertools.pairwise(marks)) / 1e3


class Communication(NamedTuple):
    """What a trace says of one step.

    Attributes:
        collectives: how many there were.
        seconds: in which at least one was under way.
        exposed: the part of it in which nothing was computed.
        share: `exposed` of the whole step.
    """

    collectives: float
    seconds: float
    exposed: float
    share: float


def communication(step: Callable[[], object], device: torch.device, steps: int = 3) -> Communication:
    """Traces a few steps, of which each but the last ends with the next one's beginning."""
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    synchronize(device)
    with profile(activities=[activity]) as traced:
        for _ in range(steps):
            step()
        synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        traced.export_chrome_trace(str(path))
        events = [one for one in json.loads(path.read_text())["traceEvents"] if one.get("ph") == "X"]
    if device.type == "cuda":
        kernels = [one for one in events if one.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
        talks = [one for one in kernels if one["name"].startswith("nccl")]
        works = [one for one in kernels if not one["name"].startswith("nccl")]
    else:
        talks = [one for one in events if one["name"].startswith("gloo:")]
        works = [one for one in events if one["name"].startswith("aten::")]
    talking, working = _union(talks), _union(works)
    together = _union([*talks, *works])
    whole = (max(end for _, end in together) - min(start for start, _ in together)) if together else 1.0
    exposed = _length(together) - _length(working)
    scale = 1e-6 / steps
    return Communication(len(talks) / steps, _length(talking) * scale, exposed * scale, exposed / whole)


def _union(events: list[dict]) -> Spans:
    """The times at which at least one of the events was under way."""
    merged: Spans = []
    for start, end in sorted((float(one["ts"]), float(one["ts"]) + float(one["dur"])) for one in events):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _length(spans: Spans) -> float:
    return sum(end - start for start, end in spans)


def reset_peak(device: torch.device) -> None:
    """From here on `peak_bytes` counts."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # Linux alone has it
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int | None:
    """The most memory that was held at once: of the GPU, or of the whole process; None where it is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
