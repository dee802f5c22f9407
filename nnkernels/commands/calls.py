"""An activation's public function as it is called in place and under torch.compile, measured against the truth."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .. import accuracy, compiling, functional
from ..benchmark import ours
from ..quiet import silenced
from ..registry import Activation, Random, Row
from ..samples import Sample

Calls = Callable[[Tensor], Tensor]

COMPILED = ("relu", "hardswish", "tanh", "elu", "silu", "mish")
"""Of each kind of formula one, which `check` compiles unless it is asked for others: a new one takes some seconds."""


def in_place(row: Row) -> Calls | None:
    """The row's function that writes into its argument, with default constants; None if it has no such form."""
    if isinstance(row, Activation) and row.inplace:
        constants = accuracy.constants_of(row)[: len(row.parameters)]
        return lambda x: functional.function_of(row)(x, *constants, inplace=True)
    return partial(functional.rrelu, inplace=True) if isinstance(row, Random) and row.name == "rrelu" else None


def measure_in_place(row: Row, call: Calls, dtype: torch.dtype, device: str) -> accuracy.Accuracy:
    """The worst errors of value and derivative of a call that writes over a tensor with a gradient."""
    if not isinstance(row, Activation):
        return accuracy.measure_sample(Sample(lambda x: call(x.clone()), ((6, 7),)), dtype, device)
    x = accuracy.inputs(dtype).to(device, copy=True).requires_grad_()
    y = call(x.clone())
    (d1,) = torch.autograd.grad(y, x, torch.ones_like(x))
    return accuracy.judge(row, x.detach(), y.detach(), d1)


def unnoticed(call: Calls, device: str) -> str | None:
    """None if autograd learns of each write, as the tensors' version counters say, else in which case it does not."""
    for case, learns, part in (
        ("without a gradient", False, slice(None)),
        ("with a gradient", True, slice(None)),
        ("of a view", False, slice(1, None)),
    ):
        x = torch.linspace(-3, 3, 64, device=device, requires_grad=learns).clone()
        before = x._version
        written = call(x[part])
        if x._version == before:
            return f"a call in place {case} leaves the version counter at {before}"
        if not torch.equal(written.detach(), x.detach()[part]):
            return f"a call in place {case} does not write its result"
    return None


def compiler_missing() -> str | None:
    """One sentence if torch.compile finds no C++ compiler here."""
    wanted = os.environ.get("CXX", "g++")
    found = shutil.which(shlex.split(wanted)[0]) if wanted else None
    return None if found else f"torch.compile needs a C++ compiler, and there is no {wanted!r}"


def measure_compiled(row: Activation, device: str) -> accuracy.Accuracy:
    """The worst errors in float32 of the compiled function and of its gradient, with the slack that is promised."""
    torch._dynamo.reset()
    x = compiling.inputs(torch.float32).to(device)
    with silenced():
        ((y, d1),) = compiling.run([ours(row)], x)
    found = compiling.judge(row, x, y, d1)
    value, derivative = (limit / accuracy.LIMITS[torch.float32] for limit in accuracy.COMPILED[torch.float32][:2])
    # Errors near the derivative's root count in units of their own; what breaks the promise there must show.
    worst = found.d1 if found.ok or found.near_root is None else max(found.d1, found.near_root, key=lambda one: one.ulp)
    return accuracy.Accuracy(
        found.dtype, found.value.ulp, found.value.at, worst.ulp, worst.at, slack=derivative, value_slack=value
    )
