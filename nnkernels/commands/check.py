"""`nnkernels check`: what CI and a suspicious user run."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from typing import Any

import torch

from .. import accuracy, dispatch, functional
from ..registry import Activation, catalogue, elementwise


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


def gradients_hold(row: Activation, device: str) -> str:
    """ "ok", or the first line of what gradcheck or gradgradcheck says."""
    constants = accuracy.constants_of(row)[: len(row.parameters)]
    x = _points(device).requires_grad_()

    def f(x: torch.Tensor) -> torch.Tensor:
        return functional.function_of(row)(x, *constants)

    try:
        torch.autograd.gradcheck(f, (x,), check_forward_ad=True, check_batched_grad=True)
        torch.autograd.gradgradcheck(f, (x,), check_batched_grad=True)
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return "ok"


def check(row: Activation, name: str) -> dict:
    """The worst errors in each type, and whether the gradients hold, of one activation on one backend."""
    found = _found(name)
    if isinstance(found, str):
        raise RuntimeError(f"backend {name!r} cannot be checked here: {found}")
    device = _device(name)
    result = {"activation": row.name, "backend": name, "accuracy": [], "gradients": "not reached", "ok": False}
    try:
        measured = [accuracy.measure(row, found, dtype, device) for dtype in accuracy.LIMITS]
        with dispatch.backend(name):
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
    for row in map(elementwise, args.activation or [row.name for row in catalogue(Activation)]):
        for name in backends:
            if row.reference is not None and not dispatch.named(name).has(row.name):  # type: ignore[union-attr]
                continue  # a user's own has no C++, and Triton only if it was given
            results.append(check(row, name))
            print(_line(results[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(_plain(results), indent=2))
    failed = [f"{r['activation']} on {r['backend']}" for r in results if not r["ok"]]
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    for line in failed:
        print(f"  {line}")
    return int(bool(failed))
