"""`nnkernels check`: what CI and a suspicious user run."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable
from typing import Any

import torch

from .. import accuracy, dispatch
from ..benchmark import ours
from ..registry import Activation, Row, activation, activations
from ..samples import SAMPLES


def usable() -> list[str]:
    """The backends that can serve a tensor on this machine, without Triton's interpreter, which takes minutes."""
    gpu = torch.cuda.is_available()
    return [name for name in dispatch.NAMES[1:] if not isinstance(_found(name), str) and (gpu or name != "triton")]


def _device(name: str) -> str:
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def _found(name: str) -> dispatch.Backend | str:
    found = dispatch.named(name)
    if isinstance(found, str):
        return found
    return found.unavailable(torch.device(_device(name))) or found


def _points(device: str) -> torch.Tensor:
    """Away from the knees, which lie at multiples of a half or at the constants' defaults."""
    return torch.tensor(
        [-3.7, -2.2, -1.3, -0.7, -0.2, 0.3, 0.8, 1.4, 2.7, 4.6, 6.3], dtype=torch.float64, device=device
    )


def _case(row: Row, device: str) -> tuple[Callable[..., torch.Tensor], tuple[torch.Tensor, ...]]:
    if isinstance(row, Activation):
        return ours(row), (_points(device),)
    return SAMPLES[row.name].call, SAMPLES[row.name].inputs(torch.float64, device)


def gradients_hold(row: Row, device: str) -> str:
    """ "ok", or the first line of what gradcheck or gradgradcheck says."""
    call, inputs = _case(row, device)
    leaves = tuple(tensor.requires_grad_() for tensor in inputs)
    try:
        torch.autograd.gradcheck(call, leaves, check_forward_ad=True, check_batched_grad=True)
        torch.autograd.gradgradcheck(call, leaves, check_batched_grad=True)
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return "ok"


def _serves(name: str, row: Row) -> bool:
    """Whether the backend has kernels for the row: a user's own has no C++, a family's kernels are not in CUDA C++."""
    if isinstance(row, Activation):
        found = _found(name)
        return isinstance(found, str) or found.has(row.name)
    return name != "cuda"


def check(row: Row, name: str) -> dict:
    """The worst errors in each type, and whether the gradients hold, of one activation on one backend."""
    found = _found(name)
    if isinstance(found, str):
        raise RuntimeError(f"backend {name!r} cannot be checked here: {found}")
    device = _device(name)
    result = {"activation": row.name, "backend": name, "accuracy": [], "gradients": "not reached", "ok": False}
    try:
        with dispatch.backend(name):
            if isinstance(row, Activation):
                measured = [accuracy.measure(row, found, dtype, device) for dtype in accuracy.LIMITS]
            else:
                measured = [accuracy.measure_sample(SAMPLES[row.name], dtype, device) for dtype in accuracy.LIMITS]
            gradients = gradients_hold(row, device)
    except Exception as error:  # a kernel that raises is what this command is there to find
        return result | {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"}
    return result | {
        "accuracy": [{**dataclasses.asdict(one), "dtype": str(one.dtype)[6:], "ok": one.ok} for one in measured],
        "gradients": gradients,
        "ok": all(one.ok for one in measured) and gradients == "ok",
    }


def _line(result: dict) -> str:
    start = f"{result['activation']:17} {result['backend']:10}"
    if "error" in result:
        return f"{start} {result['error']} FAILED"
    cells = "".join(f"{e['value']:8.2f} /{e['d1']:6.2f}" for e in result["accuracy"])
    return f"{start}{cells}   {result['gradients']:9.40} " + ("ok" if result["ok"] else "FAILED")


def _plain(found: Any) -> Any:
    """The same with NaN and infinities as text, which JSON has no numbers for."""
    if isinstance(found, dict):
        return {key: _plain(value) for key, value in found.items()}
    if isinstance(found, list):
        return [_plain(value) for value in found]
    return str(found) if isinstance(found, float) and not math.isfinite(found) else found


def run(args: argparse.Namespace) -> int:
    backends = args.backend or usable()
    for name in backends:
        if isinstance(reason := _found(name), str):
            print(f"nnkernels check: backend {name!r} cannot be checked here: {reason}", file=sys.stderr)
            return 2
    head = "".join(f"{str(dtype)[6:]:>16}" for dtype in accuracy.LIMITS)
    print(f"{'activation':17} {'backend':10}{head}   gradcheck   (worst ulp: value / derivative)")
    results = []
    for row in map(activation, args.activation or activations()):
        for name in backends:
            if not _serves(name, row):
                continue
            results.append(check(row, name))
            print(_line(results[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(_plain(results), indent=2))
    failed = [f"{r['activation']} on {r['backend']}" for r in results if not r["ok"]]
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    for line in failed:
        print(f"  {line}")
    return int(bool(failed))
