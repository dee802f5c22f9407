"""`nnkernels check`: what CI and a suspicious user run."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Any

import torch

from .. import accuracy, dispatch
from ..benchmark import ours
from ..cli import WAYS
from ..names import BACKENDS
from ..quiet import silenced
from ..registry import Activation, Row, catalogue, row_called
from ..samples import sample_of
from . import calls


def usable() -> list[str]:
    """The backends that can serve a tensor on this machine, without Triton's interpreter, which takes minutes."""
    gpu = torch.cuda.is_available()
    return [name for name in dispatch.NAMES[1:] if not isinstance(_found(name), str) and (gpu or name != "triton")]


def device_for(name: str) -> str:
    """Where a backend is checked: on the GPU if there is one and it does not want a CPU tensor."""
    if not torch.cuda.is_available():
        return "cpu"
    found = dispatch.named(name)
    if isinstance(found, str) or found.unavailable(torch.device("cuda")) is None:
        return "cuda"
    return "cpu" if found.unavailable(torch.device("cpu")) is None else "cuda"


def _found(name: str) -> dispatch.Backend | str:
    found = dispatch.named(name)
    if isinstance(found, str):
        return found
    return found.unavailable(torch.device(device_for(name))) or found


def _points(device: str) -> torch.Tensor:
    """Away from the knees, which lie at multiples of a half or at the constants' defaults."""
    return torch.tensor(
        [-3.7, -2.2, -1.3, -0.7, -0.2, 0.3, 0.8, 1.4, 2.7, 4.6, 6.3], dtype=torch.float64, device=device
    )


def _case(row: Row, device: str) -> tuple[Callable[..., torch.Tensor], tuple[torch.Tensor, ...]]:
    if isinstance(row, Activation):
        return ours(row), (_points(device),)
    sample = sample_of(row)
    return sample.call, sample.inputs(torch.float64, device)


def gradients_hold(row: Row, device: str) -> str:
    """ "ok", or the first line of what gradcheck or gradgradcheck says."""
    call, inputs = _case(row, device)
    leaves = tuple(tensor.requires_grad_() for tensor in inputs)
    try:
        with silenced():  # torch deprecates what its own vmap calls
            torch.autograd.gradcheck(call, leaves, check_forward_ad=True, check_batched_grad=True)
            torch.autograd.gradgradcheck(call, leaves, check_batched_grad=True)
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return "ok"


def serves(name: str, row: Row) -> bool:
    """Whether the backend has kernels for the row: a user's own has no C++, and a family's are not in every backend."""
    if isinstance(row, Activation):
        found = _found(name)
        return isinstance(found, str) or found.has(row.name)
    if name not in dispatch.with_families():
        return False
    sample = sample_of(row)
    try:
        with dispatch.backend(name):
            sample.call(*sample.inputs(torch.float32, device_for(name)))
    except dispatch.Unserved:
        return False
    except Exception:  # the check itself will tell of it
        return True
    return True


def check(row: Row, name: str) -> dict:
    """The worst errors in each type, and whether the gradients hold, of one activation on one backend."""
    found = _found(name)
    if isinstance(found, str):
        raise RuntimeError(f"backend {name!r} cannot be checked here: {found}")
    device = device_for(name)

    def measured(dtype: torch.dtype) -> accuracy.Accuracy:
        if isinstance(row, Activation):
            return accuracy.measure(row, found, dtype, device)
        return accuracy.measure_sample(sample_of(row), dtype, device)

    with dispatch.backend(name):
        return _judged(row, name, measured, accuracy.LIMITS, lambda: gradients_hold(row, device))


def check_in_place(row: Row, call: calls.Calls) -> dict:
    """The same of the function that writes into its argument; and whether the writes are counted."""
    device = device_for("reference")
    measured = partial(calls.measure_in_place, row, call, device=device)
    return _judged(row, "in place", measured, accuracy.LIMITS, lambda: calls.unnoticed(call, device) or "ok")


def check_compiled(row: Activation) -> dict:
    """The same of the compiled function, in float32."""
    device = device_for("reference")
    return _judged(row, "compiled", lambda dtype: calls.measure_compiled(row, device), (torch.float32,), lambda: "ok")


def _judged(
    row: Row,
    where: str,
    measured: Callable[[torch.dtype], accuracy.Accuracy],
    dtypes: Iterable[torch.dtype],
    gradients: Callable[[], str],
) -> dict:
    result = {"activation": row.name, "backend": where, "accuracy": [], "gradients": "not reached", "ok": False}
    try:
        errors = [measured(dtype) for dtype in dtypes]
        said = gradients()
    except Exception as error:  # a kernel that raises is what this command is there to find
        return result | {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"}
    return result | {
        "accuracy": [{**dataclasses.asdict(one), "dtype": str(one.dtype)[6:], "ok": one.ok} for one in errors],
        "gradients": said,
        "ok": all(one.ok for one in errors) and said == "ok",
    }


def _checks(rows: Iterable[Row], backends: Iterable[str], ways: Collection[str], every: bool) -> Iterator[dict]:
    """One result after the other; `every` says whether rows are compiled that are no example of their kind."""
    for row in rows:
        if "kernels" in ways:
            yield from (check(row, name) for name in backends if serves(name, row))
        if "inplace" in ways and (call := calls.in_place(row)) is not None:
            yield check_in_place(row, call)
        if "compiled" in ways and isinstance(row, Activation) and (every or row.name in calls.COMPILED):
            yield check_compiled(row)


HEAD = f"{'worst ulp: value/derivative':28}" + "".join(f"{str(dtype)[6:]:>12}" for dtype in accuracy.LIMITS)


def _line(result: dict) -> str:
    start = f"{result['activation']:17} {result['backend']:10}"
    if "error" in result:
        return f"{start} FAILED: {result['error']}"
    found = {one["dtype"]: f"{_short(one['value'])}/{_short(one['d1'])}" for one in result["accuracy"]}
    cells = "".join(f"{found.get(str(dtype)[6:], ''):>12}" for dtype in accuracy.LIMITS)
    verdict = "ok" if result["ok"] else "FAILED" if result["gradients"] == "ok" else f"FAILED: {result['gradients']}"
    return f"{start}{cells} {verdict}"


def _short(ulps: float) -> str:
    return f"{ulps:.2f}" if ulps < 100 else f"{ulps:.0e}"


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
    ways = set(args.only or (("kernels",) if args.backend else WAYS))
    if "compiled" in ways and (lacking := calls.compiler_missing()) is not None:
        ways.discard("compiled")
        print(f"left out: compiled calls: {lacking}")
    print(HEAD)
    results = []
    every = bool(args.activation or args.only)
    rows = [row_called(name) for name in args.activation] if args.activation else catalogue()
    for result in _checks(rows, backends, ways, every):
        results.append(result)
        print(_line(result), flush=True)
    if args.json:
        args.json.write_text(json.dumps(_plain(results), indent=2))
    failed = [f"{r['activation']} {'on ' * (r['backend'] in BACKENDS)}{r['backend']}" for r in results if not r["ok"]]
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    for line in failed:
        print(f"  {line}")
    return int(bool(failed))
