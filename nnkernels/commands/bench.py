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
"""Below this ratio a row is marked."""

HEAD = (
    f"{'activation':17} {'type':9} {'worst ulp':>11}   "
    f"{'eager':>6} {'ours':>6} {'ratio':>6}   {'eager':>6} {'ours':>6} {'ratio':>6}\n"
    f"{'':17} {'':9} {'':11}   {'forward, ns/element':^20}   {'backward, ns/element':^20}"
)


def line(c: Comparison) -> str:
    slower = [way for way in ("forward", "backward") if getattr(c, f"{way}_ratio") < SLOWER]
    ulps = f"{c.accuracy.value:.2f} /{c.accuracy.d1:5.2f}"
    return (
        f"{c.name:17} {c.dtype:9} {ulps:>11}   "
        f"{c.eager_forward:6.2f} {c.ours_forward:6.2f} {c.forward_ratio:5.2f}x   "
        f"{c.eager_backward:6.2f} {c.ours_backward:6.2f} {c.backward_ratio:5.2f}x"
        + (f"  slower {' and '.join(slower)}" if slower else "")
        + ("" if c.accuracy.ok else "  WRONG")
    )


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
        print(f"{'geometric mean':17} {dtype:9} {'':11}   {'':13} {forward:5.2f}x   {'':13} {backward:5.2f}x")


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
