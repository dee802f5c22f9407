"""The learned, random, reducing and gated activations, and what backward keeps: checked, then timed side by side.

    python benchmarks/families.py                     # on a GPU: shares of the copy's bandwidth, against eager
    python benchmarks/families.py --compile           # torch.compile of eager's composition as well
    python benchmarks/families.py --device cpu        # one thread, in cache: times as fast as eager

On a GPU a share of 1.00 means that the bytes which a pass has to move went as fast as in `y.copy_(x)` of the same run.
Shares are taken with work queued ahead, so that the host does not show; beside them stands the time of an ordinary loop
with nothing queued ahead ("wall"), where it differs by more than 5 %.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch._functorch.config
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from cases import Case
from gpu import median_ms

from nnkernels.benchmark import best_of_rounds

FAMILIES = tuple(sorted(path.stem for path in Path(__file__).parent.glob("cases/[a-z]*.py")))


def cases(families: list[str], device: str) -> list[Case]:
    found = [case for family in families for case in importlib.import_module(f"cases.{family}").CASES]
    return [case for case in found if case.device == device]


def leaves_of(inputs: tuple[Tensor, ...]) -> list[Tensor]:
    return [tensor for tensor in inputs if tensor.requires_grad]


def gradients(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], grad: Tensor) -> Callable[[], tuple]:
    """A call that takes the gradients again and again, from one graph, which is that of a training loop under way.

    The first calls of a kind go through Python and are recorded; the graphs of later ones are C++ alone.
    """
    for _ in range(WARM):
        torch.autograd.grad(function(*inputs), leaves_of(inputs), grad)
    y = function(*inputs)
    return lambda: torch.autograd.grad(y, leaves_of(inputs), grad, retain_graph=True)


def worst_error(case: Case, inputs: tuple[Tensor, ...]) -> float:
    """The greatest distance of value and gradients from eager's in float64, in the type's epsilons of their size."""
    if case.random:
        return 0.0
    wide = tuple(t.detach().double().requires_grad_(t.requires_grad) if t.is_floating_point() else t for t in inputs)
    y, exact = case.ours(*inputs), case.eager(*wide)
    pairs = [(y, exact)]
    if case.exact and leaves_of(inputs):
        grad = torch.randn_like(y)
        mine = torch.autograd.grad(y, leaves_of(inputs), grad)
        pairs += zip(mine, torch.autograd.grad(exact, leaves_of(wide), grad.double()), strict=True)
    worst = 0.0
    for got, truth in pairs:
        # A parameter's gradient is a sum, in which what is large may cancel.
        summed = (y.numel() / got.numel()) ** 0.5 if got.numel() < y.numel() else 0.0
        size = truth.abs() + truth.square().mean().sqrt() + summed
        off = (got.double() - truth).abs() / (size * torch.finfo(got.dtype).eps)
        worst = max(worst, torch.where(got.double() == truth, 0.0, off).max().item())
    return worst


def peak_bytes(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> int:
    """Memory that forward and backward take beyond the inputs, at its highest."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    y = function(*inputs)
    torch.autograd.grad(y, leaves_of(inputs), torch.ones_like(y))
    return torch.cuda.max_memory_allocated() - before


def on_gpu(case: Case, bandwidth: float, compiled: bool) -> dict:
    torch.cuda.empty_cache()  # memory lies as in a process of its own, whatever ran before
    inputs = case.inputs("cuda", case.dtype)
    found: dict = {"name": case.name, "dtype": str(case.dtype)[6:], "error": worst_error(case, inputs)}
    torch.cuda.empty_cache()
    if compiled or case.compiled:
        torch._dynamo.reset()
        torch._functorch.config.donated_buffer = False  # one graph is gone through again and again
    sides = {"ours": torch.compile(case.ours) if case.compiled else case.ours, "eager": case.eager}
    if compiled:
        sides["compile"] = torch.compile(case.eager)
    roof = {"forward": case.forward_bytes(*inputs) / bandwidth, "backward": case.backward_bytes(*inputs) / bandwidth}
    for name, side in sides.items():
        calls = {"forward": partial(side, *inputs)}
        if leaves_of(inputs):
            calls["backward"] = gradients(side, inputs, torch.ones_like(side(*inputs)))
        found[name] = {}
        for way, call in calls.items():
            milliseconds = median_ms(call)
            found[name] |= {f"{way}_ms": milliseconds, way: roof[way] / milliseconds}
            found[name][f"{way}_wall_ms"] = 1e3 * best_of_rounds([call], 5, "cuda")[0]
        if leaves_of(inputs):
            found[name]["peak_bytes"] = peak_bytes(side, inputs)
    return found


def on_cpu(case: Case) -> dict:
    inputs = case.inputs("cpu", case.dtype)
    found: dict = {"name": case.name, "dtype": str(case.dtype)[6:], "error": worst_error(case, inputs)}
    with torch.no_grad():
        ours, eager = best_of_rounds([partial(case.ours, *inputs), partial(case.eager, *inputs)], 9, "cpu")
    found |= {"ours": {"forward_ms": 1e3 * ours}, "eager": {"forward_ms": 1e3 * eager}}
    if leaves_of(inputs):
        grad = torch.randn_like(case.eager(*inputs))
        calls = [gradients(side, inputs, grad) for side in (case.ours, case.eager)]
        ours, eager = best_of_rounds(calls, 9, "cpu")
        found["ours"]["backward_ms"], found["eager"]["backward_ms"] = 1e3 * ours, 1e3 * eager
    for way in ("forward", "backward"):
        if f"{way}_ms" in found["ours"]:
            found["ours"][way] = found["eager"][f"{way}_ms"] / found["ours"][f"{way}_ms"]
    return found


def line(case: Case, found: dict) -> str:
    text = f"{found['name']:34} {found['dtype']:9} error {found['error']:6.2f}"
    for way, bar in (("forward", case.forward_bar), ("backward", case.backward_bar)):
        if way not in found["ours"]:
            continue
        text += f"   {way} {found['ours'][way]:5.2f}"
        if bar is not None:
            text += f" (bar {bar:4.2f}{' MISSED' if found['ours'][way] < bar else ''})"
        wall = found["ours"].get(f"{way}_wall_ms", 0.0)
        if wall > 1.05 * found["ours"][f"{way}_ms"]:
            text += f" wall {found['ours'][way] * found['ours'][f'{way}_ms'] / wall:4.2f}"
        for side in ("eager", "compile"):
            if way in found.get(side, {}):
                faster = found[side][f"{way}_ms"] / found["ours"][f"{way}_ms"]
                text += f" {side} {found[side][way]:4.2f} ({faster:4.2f}x)"
    if "peak_bytes" in found["ours"]:
        text += f"   memory {found['ours']['peak_bytes'] / found['eager']['peak_bytes']:4.2f}"
    return text + ("   WRONG" if found["error"] > LIMIT * case.slack else "")


WARM = 3
"""Passes in both directions after which a call of a kind no longer enters Python."""

LIMIT = 8.0
"""Epsilons of the type; eager in float64 is the truth."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--family", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--only", help="cases whose name contains this")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seconds", type=float, default=540, help="start no further case after this time")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("this benchmark needs a CUDA device; --device cpu runs the CPU's cases")
        return 2
    started, results, failed = time.monotonic(), [], False
    bandwidth = 0.0
    if args.device == "cuda":
        x = torch.randn(2**27, device="cuda", dtype=torch.bfloat16)
        y = torch.empty_like(x)
        bandwidth = 4 * x.numel() / median_ms(lambda: y.copy_(x), 41)
        del x, y
        where = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "copy_tb_per_s": bandwidth / 1e9}
        print("{device}, torch {torch}, copy {copy_tb_per_s:.2f} TB/s".format(**where))
    else:
        torch.set_num_threads(1)
        where = {"device": "CPU", "torch": torch.__version__}
        print(f"one thread, torch {torch.__version__}, times as fast as eager")
    for case in cases(args.family, args.device):
        if args.only and args.only not in case.name:
            continue
        if time.monotonic() - started > args.seconds:
            print(f"{case.name}: not started, {args.seconds:.0f} s are over")
            continue
        try:
            found = on_gpu(case, bandwidth, args.compile) if args.device == "cuda" else on_cpu(case)
        except Exception as error:  # one broken case must not cost the others their machine
            print(f"{case.name}: {type(error).__name__}: {str(error)[:400]}")
            failed = True
            continue
        results.append(found)
        failed |= found["error"] > LIMIT * case.slack
        print(line(case, found), flush=True)
    if args.out:
        args.out.write_text(json.dumps(where | {"results": results}, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
