"""The kernels of the learned activations as Triton compiles them for GPUs that need not be there, and interpreted."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from triton_tools import DEVICE, DTYPES, compile_ahead, compiles, executes, interpret, spills

from nnkernels.reference import learned as reference

COUNTS = {"prelu": 1, "swish": 1, "apl": 2, "xielu": 2, "snake": 1, "snake_beta": 2, "starrelu": 2, "dyt": 3}
KERNELS = ("forward_runs", "backward_runs", "forward_columns", "backward_columns", "forward_flat", "add_up")


@compiles
def test_under_the_interpreter():
    interpret(__file__, only="interpreted")


@functools.cache
def _compiled(kind: str, name: str, dtype: str, arch: str) -> Any:
    """What `learned.forward` and `learned.backward` would have compiled for rows of many channels, or one channel."""
    from nnkernels.triton import hardware, learned, learned_kernels

    segments = 3 if name == "apl" else 1
    formula = learned._FORMULAS[name]
    block = 4096 // DTYPES[dtype].itemsize
    constants: dict[str, Any] = {"VALUE": formula.value, "GRADIENT": formula.gradient, "SHARES": formula.shares}
    constants |= {"FACTORS": formula.factors, "COUNT": COUNTS[name], "SEGMENTS": segments}
    constants |= {"SUMS": COUNTS[name] * segments, "FLAT": False, "WIDE": False, "LONG": False, "WRAPS": False}
    constants |= {"VECTOR": 16 // DTYPES[dtype].itemsize, "VECTORS": block // 16, "TILE": block, "PER": 4}
    constants |= {"ROWS": 2, "COLUMNS": 256}
    types = {"partial_ptr": "*fp64" if dtype == "fp64" else "*fp32"}
    return compile_ahead(getattr(learned_kernels, kind), arch, dtype, constants, hardware.NUM_WARPS, types)


@compiles
@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_compiles_without_spilling(arch: str, name: str, fresh_cache, tmp_path):
    for dtype in ("bf16", "fp32", "fp64") if arch == "sm_90" else ("bf16",):
        for kind in KERNELS if arch == "sm_90" else KERNELS[:2]:
            spilled = spills(_compiled(kind, name, dtype, arch), tmp_path)
            # The library's sine takes a stack for the arguments that no reduction of ours serves.
            assert spilled == 0 or name in ("snake", "snake_beta"), (kind, dtype, spilled)


@compiles
def test_constants_keep_double_precision():
    from nnkernels.triton import learned_kernels

    for kind in KERNELS:
        told = {p.name: p.annotation_type for p in getattr(learned_kernels, kind).params}
        assert told["first_constant"] == told["second_constant"] == "fp64"


CASES = {
    "prelu": ((0.25,), ()),
    "swish": ((1.5,), ()),
    "xielu": ((0.2, -1.0), (0.5, -1e-6)),
    "snake": ((1.7,), ()),
    "snake_beta": ((1.7, 0.6), ()),
    "starrelu": ((0.9, -0.4), ()),
    "dyt": ((0.5, 1.3, 0.2), ()),
}
SHAPES = {"one": ((3, 37), 1), "columns": ((9, 6), 6), "runs": ((2, 3, 64), 3), "flat": ((2, 3, 5), 3)}


@executes
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("name", CASES)
def test_interpreted_kernels_compute_what_the_reference_does(name: str, layout: str, dtype: torch.dtype):
    from nnkernels.triton import learned

    shape, channels = SHAPES[layout]
    numbers, constants = CASES[name]
    x = torch.linspace(-9, 9, math.prod(shape), dtype=torch.float64, device=DEVICE).view(shape).to(dtype)
    x.view(-1)[:2] = torch.tensor([0.0, -5e-7], dtype=dtype)
    grad = torch.cos(torch.arange(x.numel(), device=DEVICE)).view(shape).to(dtype)
    parameters = [n * torch.linspace(0.5, 1, channels, dtype=torch.float64, device=DEVICE).to(dtype) for n in numbers]
    wide = [p.double() for p in parameters]
    limit = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    close = functools.partial(torch.testing.assert_close, rtol=limit, atol=limit)
    close(
        learned.forward(name, x, parameters, constants).double(), reference.forward(name, x.double(), wide, constants)
    )
    found, sums = learned.backward(name, grad, x, parameters, constants, True)
    exact, exact_sums = reference.backward(name, grad.double(), x.double(), wide, constants, True)
    close(found.double(), exact)
    for one, other in zip(sums, exact_sums, strict=True):
        close(one.double(), other, atol=limit * 100)
    alone, none = learned.backward(name, grad, x, parameters, constants, False)
    assert torch.equal(alone, found) and not len(none)


@executes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_interpreted_snake_keeps_its_phase_at_any_argument(dtype: torch.dtype):
    from nnkernels.triton import learned

    size = torch.tensor([1e3, 9e5, 1.1e6, 1e8, 1e12, 1e30], dtype=dtype, device=DEVICE)
    x = torch.cat([size, -size, torch.pi * torch.arange(1, 40, dtype=dtype, device=DEVICE)])
    one = torch.ones(1, dtype=dtype, device=DEVICE)
    slope = torch.cat(
        [learned.backward("snake_beta", torch.ones_like(v), v, [one, one], (), False)[0] for v in x.split(1)]
    )
    exact = 1 + torch.sin(2 * x.double().cpu()) / (1 + reference.SNAKE_GUARD)
    torch.testing.assert_close(slope.double().cpu(), exact, rtol=0, atol=4 * torch.finfo(dtype).eps)
