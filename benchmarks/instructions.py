"""Instructions for each element beside what a card can issue while the memory moves its bytes.

    python benchmarks/instructions.py                         # every stateless activation, bfloat16
    python benchmarks/instructions.py --family normalization reducing
    python benchmarks/instructions.py --dtype float32 --only gelu

Nsight Compute (`ncu`) counts what the kernels execute; the share of the copy's bandwidth is measured without it. A
multiprocessor issues four instructions of 32 threads in each cycle: "budget" is how many that makes for each element in
the time that a copy of the same bytes takes. Where a form needs more, its instructions are its limit, and
budget / instructions is the most that it can reach; what stands for other cards is that quotient, at most 1. Where the
measured share is far below, neither issue slots nor the memory are the limit, but latency: too little is in flight.
"""

from __future__ import annotations

import argparse
import csv
import io
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parent))

from families import FAMILIES, cases, gradients, leaves_of
from gpu import copy_ms, median_ms

from nnkernels.benchmark import backward_of, ours
from nnkernels.registry import Activation, catalogue


class Card(NamedTuple):
    """Multiprocessors, their clock under load in GHz, and the bandwidth of a large copy in TB/s."""

    multiprocessors: int
    clock: float
    bandwidth: float

    def slots(self) -> float:
        """Instructions, of one thread each, that may be issued for each byte moved."""
        return self.multiprocessors * 128 * self.clock / (1e3 * self.bandwidth)


# The H100's and H200's copies were measured; the B200's bandwidth is nine tenths of its data sheet's 8 TB/s, which is
# what copies reach of the others'.
CARDS = {"H100": Card(132, 1.755, 2.97), "H200": Card(132, 1.755, 4.23), "B200": Card(148, 1.85, 7.2)}
METRIC = "smsp__inst_executed.sum"
SEPARATOR = "spin_kernel"  # of torch.cuda._sleep


class Pass(NamedTuple):
    name: str
    call: Callable[[], object]
    elements: int
    moved: int


def stateless(dtype: torch.dtype) -> Iterator[Pass]:
    for row in catalogue(Activation):
        x = torch.randn(2**26, device="cuda", dtype=dtype)
        function = ours(row)
        backward = backward_of(function, x, torch.randn_like(x))
        yield Pass(f"{row.name} forward", partial(function, x), x.numel(), 2 * x.numel() * x.element_size())
        yield Pass(f"{row.name} backward", backward, x.numel(), 3 * x.numel() * x.element_size())


def of_families(names: list[str], dtype: torch.dtype) -> Iterator[Pass]:
    for case in cases(names, "cuda"):
        if case.dtype != dtype or case.compiled:
            continue
        inputs = case.inputs("cuda", case.dtype)
        y = case.ours(*inputs)
        yield Pass(f"{case.name} forward", partial(case.ours, *inputs), y.numel(), case.forward_bytes(*inputs))
        if leaves_of(inputs):
            backward = gradients(case.ours, inputs, torch.randn_like(y))
            yield Pass(f"{case.name} backward", backward, y.numel(), case.backward_bytes(*inputs))


def passes(options: argparse.Namespace) -> Iterator[Pass]:
    dtype = getattr(torch, options.dtype)
    found = of_families(options.family, dtype) if options.family else stateless(dtype)
    return (one for one in found if options.only in one.name)


def execute(options: argparse.Namespace) -> None:
    """Under ncu: each pass once, behind a separator."""
    for one in passes(options):
        for _ in range(4):  # compiles, and settles on a plan
            one.call()
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        torch.cuda._sleep(1)
        one.call()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


def executed(arguments: list[str]) -> list[int]:
    """The instructions of each pass, of one thread each."""
    ncu = shutil.which("ncu") or sys.exit("Nsight Compute's ncu is not on the PATH.")
    command = [ncu, "--csv", "--metrics", METRIC, "--profile-from-start", "off", "--clock-control", "none"]
    command += [sys.executable, __file__, *arguments, "--execute"]
    done = subprocess.run(command, capture_output=True, text=True)
    start = done.stdout.find('"ID"')
    if done.returncode or start < 0:
        sys.exit(f"ncu failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    counts: list[int] = []
    for row in csv.DictReader(io.StringIO(done.stdout[start:])):
        if SEPARATOR in row["Kernel Name"]:
            counts.append(0)
        else:
            counts[-1] += 32 * int(row["Metric Value"].replace(",", ""))
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", default=[], choices=FAMILIES)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--only", default="", help="only passes whose name has this in it")
    parser.add_argument("--execute", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.execute:
        return execute(options)
    source = torch.empty(2**27, device="cuda", dtype=torch.bfloat16)
    bandwidth = 2 * source.numel() * source.element_size() / copy_ms(source)
    print(f"{torch.cuda.get_device_name()}, whose copy moves {bandwidth / 1e9:.2f} TB/s; {options.dtype}")
    print(f"{'':44} bytes  instructions  share  " + "  ".join(f"{name}: budget, most" for name in CARDS))
    for one, count in zip(passes(options), executed(sys.argv[1:]), strict=True):
        share = one.moved / bandwidth / median_ms(one.call)
        each, moved = count / one.elements, one.moved / one.elements
        budgets = [card.slots() * moved for card in CARDS.values()]
        most = "  ".join(f"{budget:12.1f}, {min(1.0, budget / each):4.2f}" for budget in budgets)
        print(f"{one.name:44} {moved:5.1f}  {each:12.1f}  {share:5.2f}  {most}")


if __name__ == "__main__":
    main()
