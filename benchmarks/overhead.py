"""What a small call costs, forward and backward, against torch's own: 8 elements on the CPU, 4,096 on a GPU.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --forms      # of the other forms, 512 elements or 4,096, and of DTensors

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
from pathlib import Path

import torch
from torch import Tensor

import nnkernels.functional as ours
from nnkernels import autograd
from nnkernels.benchmark import best_of_rounds

sys.path.insert(0, str(Path(__file__).parent))

from small_calls import SMALL_CALLS, SmallCall

BARS = {"cpu": (8, 1.35), "cuda": (4096, 1.1)}
NAMES = ("silu", "gelu", "relu", "softplus")
FORM_ELEMENTS = {"cpu": 512, "cuda": 4096}
eager = torch.nn.functional


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


def form(name: str, case: SmallCall, device: str, rounds: int) -> dict[str, float | str]:
    """Forward and backward, then forward without a gradient, eager's and ours."""
    inputs = case.inputs(FORM_ELEMENTS[device], device)
    narrow = torch.bfloat16 if case.autocast else None

    def both(side: Callable[..., Tensor]) -> Callable[[], object]:
        def call() -> object:
            with torch.autocast(device, narrow, enabled=case.autocast):
                y = side(*inputs)
            return torch.autograd.grad(y, inputs, grads[y.dtype])

        return call

    def forward(side: Callable[..., Tensor]) -> Callable[[], object]:
        def call() -> object:
            with torch.no_grad(), torch.autocast(device, narrow, enabled=case.autocast):
                return side(*inputs)

        return call

    y = case.eager(*inputs)
    grads = {dtype: torch.randn_like(y, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    sides = (case.eager, case.ours)
    for call in (*map(both, sides), *map(forward, sides)):
        for _ in range(5):
            call()
    theirs, mine, theirs_forward, mine_forward = (
        1e6 * seconds
        for way in (both, forward)
        for seconds in best_of_rounds([way(side) for side in sides], rounds, device)
    )
    facts = {"activation": name, "device": device, "bar": case.bars[0], "forward_bar": case.bars[1]}
    facts |= {"eager_us": theirs, "ours_us": mine, "ratio": mine / theirs}
    facts |= {"eager_forward_us": theirs_forward, "ours_forward_us": mine_forward}
    return facts | {"forward_ratio": mine_forward / theirs_forward}


def dtensors(device: str, rounds: int, calls: int) -> list[dict]:
    """silu and rms norm of DTensors on a mesh of this process."""
    from torch.distributed import HashStore, destroy_process_group, init_process_group
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    norms = (partial(eager.rms_norm, normalized_shape=(64,)), partial(ours.rms_norm_act, normalized_shape=(64,)))
    found = []
    init_process_group("gloo" if device == "cpu" else "nccl", store=HashStore(), rank=0, world_size=1)
    part = distribute_tensor(torch.randn(8, 64, device=device), init_device_mesh(device, (1,)), [Shard(0)])
    for name, sides in {"silu": (eager.silu, ours.silu), "rms_norm": norms}.items():
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
        results = [form(*one, device, 20 * args.rounds) for device in devices for one in SMALL_CALLS.items()]
        results += [one for device in devices for one in dtensors(device, args.rounds, args.calls)]
    else:
        results = [compare(name, device, args.rounds, args.calls) for device in devices for name in NAMES]
    if not args.forms and autograd.has_cpp_node():
        results += by_python_route(args)
    if args.json:
        print(json.dumps(results))
        return
    print(f"torch {torch.__version__}")
    for r in results:
        text = (
            f"{r['device']:5} {r['activation']:32} {r.get('route', ''):6} eager {r['eager_us']:6.1f} us   "
            f"ours {r['ours_us']:6.1f} us   ratio {r['ratio']:.2f}" + (f" (bar {r['bar']})" if "bar" in r else "")
        )
        if "forward_ratio" in r:
            text += f"   forward {r['eager_forward_us']:6.1f}, {r['ours_forward_us']:6.1f} us: {r['forward_ratio']:.2f}"
            text += f" (bar {r['forward_bar']})"
        print(text)


if __name__ == "__main__":
    main()
