"""Products with an activation behind them, beside the bare product, torch's composition and torch.compile of it.

    python benchmarks/products.py      # on a GPU, in bfloat16; the kernels' own time, from replayed CUDA graphs
    python benchmarks/products.py --first   # seconds of a first call, with nothing compiled

A figure is a median; the sides take turns, since a GPU that is busy with products slows down. Forward and backward
together are shown against eager's composition, and what backward keeps of gated blocks. Where Liger-Kernel is installed
its gated block takes its turn as well.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import linear

sys.path.insert(0, str(Path(__file__).parent))

from cases import linear as cases

ROUNDS, CALLS = 7, 4


def replayed(call: Callable[[], object]) -> Callable[[], float]:
    """Microseconds of one call, from a graph of several."""
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):  # what is compiled or chosen at a first call is out of the way
        for _ in range(2):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            call()

    def once() -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        return 1e3 * begin.elapsed_time(end) / CALLS

    return once


def together(**sides: Callable[[], object]) -> dict[str, float]:
    """The median of each side, in turns."""
    timers = {name: replayed(call) for name, call in sides.items()}
    rounds = [{name: timer() for name, timer in timers.items()} for _ in range(ROUNDS)]
    return {name: median(one[name] for one in rounds) for name in sides}


def gradients(function: Callable[..., Tensor], given: tuple[Tensor, ...]) -> Callable[[], object]:
    """Forward and backward."""
    grad = torch.ones_like(function(*given))
    return lambda: torch.autograd.grad(function(*given), given, grad)


def without_grad(function: Callable[..., Tensor], given: tuple[Tensor, ...]) -> Callable[[], object]:
    detached = [tensor.detach() for tensor in given]
    return lambda: function(*detached)


def kept(function: Callable[..., Tensor], given: tuple[Tensor, ...]) -> float:
    """MiB that lie between forward and backward, without the result."""
    before = torch.cuda.memory_allocated()
    y = function(*given)
    return (torch.cuda.memory_allocated() - before - y.numel() * y.element_size()) / 2**20


def liger_gated_mlp(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    return linear(LigerSiLUMulFunction.apply(linear(x, gate), linear(x, up)), down)


def first_calls(only: str) -> None:
    """Of each kind in a process without compiled kernels, after torch's own first product."""
    for case in cases.CASES:
        if case.device != "cuda" or only not in case.name:
            continue
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            with tempfile.TemporaryDirectory() as folder:
                os.environ["TRITON_CACHE_DIR"] = folder
                given = case.inputs("cuda", torch.bfloat16)
                case.eager(*given).sum().backward()
                torch.cuda.synchronize()
                began = time.perf_counter()
                case.ours(*given).sum().backward()
                torch.cuda.synchronize()
                print(f"{case.name:32} {time.perf_counter() - began:.2f} s", flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{case.name} failed")


def compare(name: str, ours: Callable[..., Tensor], eager: Callable[..., Tensor], given: tuple[Tensor, ...]) -> None:
    torch._dynamo.reset()
    sides = {"eager": eager, "compile": torch.compile(eager), "ours": ours}
    if name.startswith("gated_mlp") and find_spec("liger_kernel"):
        sides["liger"] = liger_gated_mlp
    forward = {side: without_grad(call, given) for side, call in sides.items()}
    if len(given) == 3:
        forward["bare"] = without_grad(linear, given)
    found = together(**forward)
    both = together(**{side: gradients(call, given) for side, call in sides.items()})
    shown = [f"{side} {found[side]:.0f}" for side in forward]
    if "bare" in found:
        shown.append(f"ours/bare {found['ours'] / found['bare']:.2f}")
    shown += [f"| both {side} {both[side]:.0f}" for side in sides] + [f"eager/ours {both['eager'] / both['ours']:.2f}"]
    print(f"{name:32}", *shown, f"| keeps MiB eager {kept(eager, given):.0f} ours {kept(ours, given):.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only names that contain this")
    parser.add_argument("--first", action="store_true", help="the seconds of a first call, forward and backward")
    arguments = parser.parse_args()
    chosen = arguments.only
    if arguments.first:
        return first_calls(chosen)
    for case in cases.CASES:
        if case.device == "cuda" and chosen in case.name:
            compare(case.name, case.ours, case.eager, case.inputs("cuda", torch.bfloat16))


if __name__ == "__main__":
    main()
