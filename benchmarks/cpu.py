"""Every activation on the CPU against torch eager and, with --compile, torch.compile: the table and the bars.

    python benchmarks/cpu.py                 # float32 and bfloat16, one thread, 2^17 elements
    python benchmarks/cpu.py --compile --json cpu.json
    python benchmarks/cpu.py --ranges        # instead: how much slower than usual the worst range of values is

Each case is checked before it is timed; the sides alternate in one process, and each keeps its best round.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import ranges

from nnkernels import native
from nnkernels.benchmark import compare, geometric_mean
from nnkernels.commands.bench import HEAD, SLOWER, line
from nnkernels.registry import Activation, catalogue

GEOMETRIC_MEANS = {"forward": 2.0, "backward": 1.6}
FORWARD = {"mish": 4.0, "tanh": 4.0, "elu": 2.5, "selu": 2.5, "softplus": 2.5, "gelu_tanh": 2.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="time torch.compile of torch's function as well")
    parser.add_argument("--ranges", action="store_true", help="time each range of values beside the usual one")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.ranges:
        print(f"torch {torch.__version__}, {native.instruction_set()}, one thread, {ranges.SIZE} elements")
        for dtype in (torch.float32, torch.bfloat16):
            for text in ranges.lines(list(catalogue(Activation)), dtype, args.rounds):
                print(text, flush=True)
        return
    print(f"torch {torch.__version__}, {native.instruction_set()}, one thread, 2^17 elements")
    print(HEAD)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        done, compiled = [], []
        for row in catalogue(Activation):
            done.append(compare(row, dtype, rounds=args.rounds))
            print(line(done[-1]), flush=True)
            if args.compile:
                torch._dynamo.reset()
                compiled.append(compare(row, dtype, rounds=args.rounds, other=torch.compile))
                print(f"{'  torch.compile':27} {line(compiled[-1])[28:]}", flush=True)
        for way, bar in GEOMETRIC_MEANS.items():
            ratios = {c.name: getattr(c, f"{way}_ratio") for c in done}
            mean = geometric_mean(ratios.values())
            bars = {name: FORWARD.get(name, SLOWER) if way == "forward" else SLOWER for name in ratios}
            short = [f"{name} {ratio:.2f}x (bar {bars[name]})" for name, ratio in ratios.items() if ratio < bars[name]]
            print(f"{way}: geometric mean {mean:.2f}x (bar {bar}); below their bars: {', '.join(short) or 'none'}")
            if compiled:
                against = geometric_mean(getattr(c, f"{way}_ratio") for c in compiled)
                print(f"{way}: geometric mean against torch.compile {against:.2f}x")
        results += [{"against": "eager"} | dataclasses.asdict(c) for c in done]
        results += [{"against": "torch.compile"} | dataclasses.asdict(c) for c in compiled]
    if args.json:
        args.json.write_text(json.dumps(results, default=str, indent=1))


if __name__ == "__main__":
    main()
