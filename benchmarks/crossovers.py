"""Measures which backend is the fastest from how many elements on, and rewrites nnkernels/crossovers.json.

    python benchmarks/crossovers.py             # prints what it measured and writes the table
    python benchmarks/crossovers.py --dry-run

A device that this machine lacks keeps its entry. Times are the best of alternating rounds of forward + backward, summed
over one light and one heavy activation.
"""

from __future__ import annotations

import argparse
import json
import math
import time

import torch

from nnkernels import dispatch

ROWS = ("relu", "gelu")
SIZES = [2**power for power in range(6, 25, 3)]
DTYPES = (torch.float32, torch.bfloat16, torch.float64)


def seconds(backend: dispatch.Backend, x: torch.Tensor, repeats: int) -> float:
    synchronize = torch.cuda.synchronize if x.is_cuda else lambda: None
    synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        for name in ROWS:
            backend.forward(name, x, 0.0, 0.0)
            backend.backward(name, x, x, 0.0, 0.0)
    synchronize()
    return (time.perf_counter() - start) / repeats


def candidates(device: str) -> list[dispatch.Backend]:
    found = [dispatch.named(name) for name in dispatch.NAMES if name not in ("auto", "reference")]
    return [one for one in found if not isinstance(one, str) and one.unavailable(torch.device(device)) is None]


def ranking(backends: list[dispatch.Backend], x: torch.Tensor, rounds: int = 7) -> list[tuple[float, str]]:
    """Seconds and names, the fastest first."""
    repeats = [max(1, int(2e-3 / max(seconds(one, x, 2), 1e-7))) for one in backends]
    best = [math.inf] * len(backends)
    for _ in range(rounds):
        for i, one in enumerate(backends):
            best[i] = min(best[i], seconds(one, x, repeats[i]))
    return sorted(zip(best, (one.name for one in backends), strict=True))


def steps(device: str, dtype: torch.dtype) -> list[list]:
    """[[least elements, [names, best first]], ...], a step where the order changes by more than a tenth."""
    backends = candidates(device)
    table: list[list] = []
    for size in SIZES:
        ranked = ranking(backends, torch.randn(size, device=device).to(dtype))
        print(f"{device} {dtype} {size:9}: " + ", ".join(f"{name} {1e6 * t:.1f} us" for t, name in ranked), flush=True)
        names = [name for _, name in ranked]
        clear = len(ranked) == 1 or ranked[1][0] > 1.1 * ranked[0][0]
        if not table or (clear and names[0] != table[-1][1][0]):
            table.append([size if table else 0, names])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="do not write the table")
    args = parser.parse_args()
    table = json.loads(dispatch.CROSSOVERS.read_text())
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        if not candidates(device):
            print(f"{device}: no kernels here; its entry stays as it is")
            continue
        measured = {str(dtype): steps(device, dtype) for dtype in DTYPES}
        table[device] = {"default": measured[str(torch.float32)]}
        table[device] |= {name: found for name, found in measured.items() if found != table[device]["default"]}
    if not args.dry_run:
        lines = [f"  {json.dumps(device)}: {json.dumps(entry)}" for device, entry in table.items()]
        dispatch.CROSSOVERS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
