"""pytest-benchmark's view of the same cases: `pytest benchmarks/test_cpu.py --benchmark-only -k "mish and float32"`."""

from __future__ import annotations

import pytest
import torch

from nnkernels import accuracy, dispatch
from nnkernels.benchmark import ours
from nnkernels.counterparts import peer
from nnkernels.registry import Activation, catalogue

SIDES = {"eager": peer, "nnkernels": ours, "compile": lambda row: torch.compile(peer(row))}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.fixture(autouse=True)
def alone():
    """One thread, and no graph of an earlier case: the peers share a code object, of which dynamo compiles only eight
    before it runs the rest eagerly."""
    torch._dynamo.reset()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", catalogue(Activation), ids=lambda row: row.name)
def test_speed(benchmark, row, dtype, way, side):
    benchmark.group = f"{row.name}-{dtype}-{way}"
    x = torch.randn(2**17).to(DTYPES[dtype])
    if side == "nnkernels":
        found = accuracy.measure(row, dispatch.select(row.name, x), DTYPES[dtype])
        assert found.ok, str(found)
    function = SIDES[side](row)
    if way == "forward":
        with torch.no_grad():
            benchmark(function, x)
    else:
        leaf = x.requires_grad_()
        y, grad = function(leaf), torch.randn_like(x)
        benchmark(lambda: torch.autograd.grad(y, leaf, grad, retain_graph=True))
