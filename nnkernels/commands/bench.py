"""`nnkernels bench`: each activation against torch's, side by side, forward and backward."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator

import torch

from ..benchmark import Comparison, compare, geometric_mean
from ..registry import Activation, catalogue, elementwise

SLOWER = 0.95
"""Below this ratio a figure is marked with <."""

HEAD = (
    f"{'':16} {'':8} {'worst ulp':>10}{'forward, ns/element':^22}{'backward, ns/element':^22}\n"
    f"{'activation':16} {'type':8} {'f / slope':>10}" + f" {'eager':>6} {'ours':>6} {'ratio':>6} " * 2
)
"""Above columns that fit into 80 characters."""


def line(c: Comparison) -> str:
    cells = (
        f" {eager:6.2f} {ours:6.2f} {ratio:5.2f}x{'<' if ratio < SLOWER else ' '}"
        for eager, ours, ratio in (
            (c.eager_forward, c.ours_forward, c.forward_ratio),
            (c.eager_backward, c.ours_backward, c.backward_ratio),
        )
    )
    ulps = f"{c.accuracy.value:.2f}/{c.accuracy.d1:.2f}"
    return f"{c.name:16} {c.dtype:8} {ulps:>10}{''.join(cells)}" + ("" if c.accuracy.ok else " WRONG")


def table(dtypes: Iterable[str], size: int, device: str, names: Iterable[str] | None = None) -> Iterator[Comparison]:
    """Prints the table line by line, with the geometric means of each type at its end."""
    print(HEAD)
    for dtype in dtypes:
        done = []
        for name in names or [row.name for row in catalogue(Activation)]:
            done.append(compare(elementwise(name), getattr(torch, dtype), size, device))
            print(line(done[-1]), flush=True)
            yield done[-1]
        forward, backward = (
            geometric_mean(getattr(c, f"{way}_ratio") for c in done) for way in ("forward", "backward")
        )
        print(f"{'geometric mean':16} {dtype:8} {'':10} {'':13} {forward:5.2f}x  {'':13} {backward:5.2f}x")


def run(args: argparse.Namespace) -> int:
    if args.device == "cuda" and not torch.cuda.is_available():
        print("nnkernels bench: --device cuda needs a CUDA device, and there is none", file=sys.stderr)
        return 2
    threads = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        results = list(table(args.dtype, args.size, args.device, args.activation))
    finally:
        torch.set_num_threads(threads)
    if args.json:
        found = [
            {k: v for k, v in dataclasses.asdict(c).items() if k != "accuracy"}
            | {"value_ulp": c.accuracy.value, "d1_ulp": c.accuracy.d1, "ok": c.accuracy.ok}
            for c in results
        ]
        args.json.write_text(json.dumps(found, indent=2))
    return int(any(not c.accuracy.ok for c in results))
