"""What a small call costs, forward and backward, against torch's own: 8 elements on the CPU, 4,096 on a GPU.

    python benchmarks/overhead.py

Where the C++ autograd node was built for this torch, a second process (NNKERNELS_AUTOGRAD=python) shows the Python
route. Eager and ours run in alternating rounds of one process; times are the medians of the rounds, in microseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

import nnkernels.functional as ours
from nnkernels import autograd

BARS = {"cpu": (8, 1.35), "cuda": (4096, 1.1)}
NAMES = ("silu", "gelu", "relu", "softplus")


def round_us(
    function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, grad: torch.Tensor, calls: int
) -> float:
    synchronize = torch.cuda.synchronize if x.is_cuda else lambda: None
    synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        function(x).backward(grad)
        x.grad = None
    synchronize()
    return (time.perf_counter() - start) / calls * 1e6


def compare(name: str, device: str, rounds: int, calls: int) -> dict[str, float | str]:
    size, bar = BARS[device]
    x = torch.randn(size, device=device, requires_grad=True)
    grad = torch.ones(size, device=device)
    sides = getattr(torch.nn.functional, name), getattr(ours, name)
    for side in sides:
        round_us(side, x, grad, calls)
    times = [[round_us(side, x, grad, calls) for side in sides] for _ in range(rounds)]
    eager, mine = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(mine / eager for eager, mine in times)
    route = "C++" if autograd.has_cpp_node() else "Python"
    facts = {"activation": name, "device": device, "route": route}
    return facts | {"eager_us": eager, "ours_us": mine, "ratio": ratio, "bar": bar}


def by_python_route(args: argparse.Namespace) -> list[dict]:
    """The same in a process without the C++ node, which a process takes or leaves when nnkernels is imported."""
    command = [sys.executable, __file__, "--json", "--rounds", str(args.rounds), "--calls", str(args.calls)]
    environment = os.environ | {"NNKERNELS_AUTOGRAD": "python"}
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    args = parser.parse_args()
    torch.set_num_threads(1)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    results = [compare(name, device, args.rounds, args.calls) for device in devices for name in NAMES]
    if autograd.has_cpp_node():
        results += by_python_route(args)
    if args.json:
        print(json.dumps(results))
        return
    print(f"torch {torch.__version__}")
    for r in results:
        print(
            f"{r['device']:5} {r['activation']:9} {r['route']:6} eager {r['eager_us']:6.1f} us   "
            f"ours {r['ours_us']:6.1f} us   ratio {r['ratio']:.2f} (bar {r['bar']})"
        )


if __name__ == "__main__":
    main()
