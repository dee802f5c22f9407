"""What a small call costs, forward and backward, against torch's own: 8 elements on the CPU, 4,096 on a GPU.

    python benchmarks/overhead.py                            # the C++ autograd node where it was built for this torch
    NNKERNELS_AUTOGRAD=python python benchmarks/overhead.py  # the Python route

Both sides run in alternating rounds of one process; times are the medians of the rounds, in microseconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
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
    return {"activation": name, "device": device, "eager_us": eager, "ours_us": mine, "ratio": ratio, "bar": bar}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    args = parser.parse_args()
    torch.set_num_threads(1)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    results = [compare(name, device, args.rounds, args.calls) for device in devices for name in NAMES]
    if args.json:
        print(json.dumps(results))
        return
    print(f"torch {torch.__version__}, C++ autograd node {'in use' if autograd.has_cpp_node() else 'not in use'}")
    for r in results:
        print(
            f"{r['device']:5} {r['activation']:9} eager {r['eager_us']:6.1f} us   ours {r['ours_us']:6.1f} us   "
            f"ratio {r['ratio']:.2f} (bar {r['bar']})"
        )


if __name__ == "__main__":
    main()
