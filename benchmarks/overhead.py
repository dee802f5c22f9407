"""What a small call costs, forward and backward, against torch's own: 8 elements on the CPU, 4,096 on a GPU.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --forms      # of the other forms, 8 x 64 elements, and of DTensors in one process

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
from functools import partial

import torch
from torch import Tensor

import nnkernels.functional as ours
from nnkernels import autograd

BARS = {"cpu": (8, 1.35), "cuda": (4096, 1.1)}
NAMES = ("silu", "gelu", "relu", "softplus")
eager = torch.nn.functional


def eager_swiglu(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, -1)
    return eager.silu(gate) * up


FORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "swiglu": (eager_swiglu, ours.swiglu),
    "softmax": (partial(eager.softmax, dim=-1), partial(ours.softmax, dim=-1)),
    "dropout": (eager.dropout, ours.dropout),
    "rms_norm": (partial(eager.rms_norm, normalized_shape=(64,)), partial(ours.rms_norm_act, normalized_shape=(64,))),
}
"""Torch's and ours."""


def round_us(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor, calls: int) -> float:
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
    return timed(name, (getattr(eager, name), getattr(ours, name)), x, rounds, calls) | {
        "route": "C++" if autograd.has_cpp_node() else "Python",
        "bar": bar,
    }


def forms(device: str, rounds: int, calls: int) -> list[dict]:
    """The other forms, then silu and rms norm of DTensors on a mesh of this process."""
    from torch.distributed import HashStore, destroy_process_group, init_process_group
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    x = torch.randn(8, 64, device=device)
    found = [timed(name, sides, x.clone().requires_grad_(), rounds, calls) for name, sides in FORMS.items()]
    init_process_group("gloo" if device == "cpu" else "nccl", store=HashStore(), rank=0, world_size=1)
    part = distribute_tensor(x, init_device_mesh(device, (1,)), [Shard(0)])
    for name, sides in {"silu": (eager.silu, ours.silu), "rms_norm": FORMS["rms_norm"]}.items():
        found.append(timed(f"DTensor {name}", sides, part.detach().requires_grad_(), rounds, calls))
    destroy_process_group()
    return found


def timed(
    name: str, sides: tuple[Callable[[Tensor], Tensor], ...], x: Tensor, rounds: int, calls: int
) -> dict[str, float | str]:
    """Torch's and ours of `sides` at the leaf `x`."""
    grad = torch.ones_like(sides[0](x).detach())
    for side in sides:
        round_us(side, x, grad, calls)
    times = [[round_us(side, x, grad, calls) for side in sides] for _ in range(rounds)]
    theirs, mine = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(mine / theirs for theirs, mine in times)
    facts = {"activation": name, "device": x.device.type}
    return facts | {"eager_us": theirs, "ours_us": mine, "ratio": ratio}


def by_python_route(args: argparse.Namespace) -> list[dict]:
    """The same in a process without the C++ node, which a process takes or leaves when nnkernels is imported."""
    command = [sys.executable, __file__, "--json", "--rounds", str(args.rounds), "--calls", str(args.calls)]
    environment = os.environ | {"NNKERNELS_AUTOGRAD": "python"}
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--forms", action="store_true", help="the other forms and DTensors instead")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    args = parser.parse_args()
    torch.set_num_threads(1)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if args.forms:
        results = [one for device in devices for one in forms(device, args.rounds, args.calls)]
    else:
        results = [compare(name, device, args.rounds, args.calls) for device in devices for name in NAMES]
    if not args.forms and autograd.has_cpp_node():
        results += by_python_route(args)
    if args.json:
        print(json.dumps(results))
        return
    print(f"torch {torch.__version__}")
    for r in results:
        print(
            f"{r['device']:5} {r['activation']:16} {r.get('route', ''):6} eager {r['eager_us']:6.1f} us   "
            f"ours {r['ours_us']:6.1f} us   ratio {r['ratio']:.2f}" + (f" (bar {r['bar']})" if "bar" in r else "")
        )


if __name__ == "__main__":
    main()
