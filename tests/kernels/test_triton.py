"""The Triton backend, without a GPU and with one.

The kernels run under Triton's interpreter in a second pytest (TRITON_INTERPRET has to be set before Triton is
imported), or here if there is a GPU. They are compiled ahead of time for GPUs that need not be there.
"""

from __future__ import annotations

import functools
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from triton_tools import DEVICE, DTYPES, HAS_TRITON, INTERPRETED, compile_ahead, compiles, executes, interpret, spills

from nnkernels import accuracy, registry
from nnkernels.layout import Geometry, plan
from nnkernels.registry import activation
from nnkernels.triton import TritonBackend

NAMES = [row.name for row in registry.catalogue(registry.Activation)]
BACKEND = TritonBackend()


@compiles
def test_under_the_interpreter():
    interpret(__file__, only="")


def _inputs(dtype: torch.dtype) -> Tensor:
    """Every 16-bit number; a part of the others' grid when interpreted, where each element costs."""
    x = accuracy.inputs(dtype)
    if INTERPRETED and dtype not in (torch.bfloat16, torch.float16):
        x = torch.cat([x[:: 11 if dtype == torch.float32 else 23], x[-5:]])
    return x.to(DEVICE)


def _run(name: str, x: Tensor, a: float, b: float) -> tuple[Tensor, Tensor, Tensor]:
    """Value and both derivatives."""
    one = torch.ones_like(x)
    d1 = BACKEND.backward(name, one, x, a, b)
    again, d2 = BACKEND.double_backward(name, one, one, x, a, b)
    assert torch.equal(again.nan_to_num(7), d1.nan_to_num(7))
    return BACKEND.forward(name, x, a, b), d1, d2


@executes
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["bf16", "fp16", "fp32"])
def test_accuracy(name: str, kind: str):
    dtype, row = DTYPES[kind], registry.activation(name)
    x, (a, b) = _inputs(dtype), accuracy.constants_of(row)
    value, d1, d2 = _run(name, x, a, b)
    truth = [accuracy.truth_of(row, order, x, a, b) for order in ("value", "d1", "d2")]
    wide = x.to(torch.float64)
    assert accuracy.errors(value, truth[0]).max() <= accuracy.LIMITS[dtype]
    assert accuracy.errors(d1, truth[1]).max() <= accuracy.LIMITS[dtype]
    floor = torch.where((truth[2].abs() < 0.1) & (wide.abs() < 8), 0.1, 0.0)
    assert accuracy.errors(d2, truth[2], floor).max() <= (32 if dtype == torch.float32 else 1)


@executes
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"gelu_tanh", "gelu_sigmoid"}))
def test_accuracy_in_double(name: str):
    row = registry.activation(name)
    x, (a, b) = _inputs(torch.float64), (1 / 3, 0.7)
    for got, order in zip(_run(name, x, a, b), ("value", "d1", "d2"), strict=True):
        truth = accuracy.truth_of(row, order, x, a, b)
        floor = torch.where((truth.abs() < 0.1) & (x.abs() < 30), 0.1, 0.0) if order != "value" else 0.0
        assert accuracy.errors(got, truth, floor).max() <= 64


@executes
@pytest.mark.parametrize("name", ["gelu_tanh", "gelu_sigmoid"])
def test_gates_with_irrational_constants_in_double(name: str):
    """Against mpmath, with digits enough for its differences: rounding the constants to double would cost 1e-13."""
    import mpmath as mp

    def exact(x: Any) -> Any:
        cubic = mp.sqrt(8 / mp.pi) * (x + mp.mpf("0.044715") * x**3)
        return x / (1 + mp.exp(-(cubic if name == "gelu_tanh" else mp.mpf("1.702") * x)))

    x = torch.linspace(-19, 19, 77, dtype=torch.float64, device=DEVICE)
    with mp.workdps(500):
        for order, got in enumerate(_run(name, x, 0.0, 0.0)):
            for at, y in zip(x.tolist(), got.tolist(), strict=True):
                truth = mp.diff(exact, at, order)
                size = max(abs(truth), 0.1 if -3 < at < 3 and order else 0)
                assert abs(y - truth) <= (1e-13 if order == 2 else 1e-14) * size, (order, at)


@executes
@pytest.mark.parametrize("a", [0.0, -1.5, 1e-30, 1e30])
@pytest.mark.parametrize("name", ["swish", "softplus", "celu", "elu", "softshrink", "leaky_relu"])
def test_odd_constants_are_right_at_moderate_inputs(name: str, a: float):
    if a == 0 and name in ("softplus", "celu"):
        pytest.skip("divides by its constant")
    row, x = registry.activation(name), torch.linspace(-20, 20, 401, device=DEVICE)
    truth = accuracy.truth_of(row, "value", x, a, 20.0)
    got = BACKEND.forward(name, x, a, 20.0).to(torch.float64)
    torch.testing.assert_close(got, truth.float().double(), rtol=1e-5, atol=1e-30)


@executes
def test_infinities_and_nan():
    x = torch.tensor([math.inf, -math.inf, math.nan], device=DEVICE)
    for name in ("silu", "swish", "gelu", "gelu_tanh", "gelu_sigmoid", "mish"):
        value, d1, _ = _run(name, x, 1.0, 0.0)
        assert value[0] == math.inf and value[1] == 0 and d1[0] == 1 and d1[1] == 0 and value[2].isnan()
    for name in NAMES:
        a, b = accuracy.constants_of(registry.activation(name))
        assert BACKEND.forward(name, x, a, b)[2].isnan(), name
    zeros = torch.tensor([0.0, -0.0], device=DEVICE)
    assert torch.equal(BACKEND.forward("tanh", zeros, 0, 0).signbit(), zeros.signbit())


def _layouts() -> dict[str, Tensor]:
    grid = torch.randn(3, 8, 5, 6)
    return {
        "0-dim": torch.tensor(0.7),
        "empty": torch.empty(0, 3),
        "odd-length": torch.randn(1023),
        "even-length": torch.randn(4096),
        "several-tiles": torch.randn(70_001),
        "channels_last": grid.to(memory_format=torch.channels_last),
        "permuted": grid.permute(2, 0, 3, 1),
        "half": torch.randn(7, 3, 64).chunk(2, -1)[1],
        "odd-half": torch.randn(5, 30).chunk(2, -1)[0],
        "wide-half": torch.randn(3, 4000).chunk(2, -1)[1],
        "channels-half": torch.randn(4, 6, 5, 5).chunk(2, 1)[0],
        "strided": torch.randn(9, 10)[::2, ::3],
        "size-1 dims": torch.randn(4, 1, 6).as_strided((4, 1, 6), (6, 999, 1)),
        "unaligned": torch.randn(1001)[1:],
    }


@executes
@pytest.mark.parametrize("grad_layout", ["alike", "expanded", "transposed", "rows"])
@pytest.mark.parametrize("layout", _layouts())
def test_layouts(layout: str, grad_layout: str):
    """On poisoned memory: every element is written, in PyTorch's strides, and no input is touched."""
    x = _layouts()[layout].to(DEVICE)
    grad = torch.randn_like(x)
    if grad_layout == "expanded":
        grad = torch.tensor(0.5, device=DEVICE).expand(x.shape)
    elif grad_layout == "transposed" and x.dim() > 1:
        grad = torch.randn(x.shape[::-1], device=DEVICE).permute(*range(x.dim())[::-1])
    elif grad_layout == "rows" and x.dim() > 0:
        grad = torch.randn(*x.shape[:-1], 2 * x.shape[-1], device=DEVICE)[..., : x.shape[-1]]
    kept = x.clone(), grad.clone()
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        y = BACKEND.forward("mish", x, 0.0, 0.0)
        grad_x = BACKEND.backward("mish", grad, x, 0.0, 0.0)
        for_grad, for_x = BACKEND.double_backward("mish", grad, grad, x, 0.0, 0.0)
    finally:
        torch.use_deterministic_algorithms(deterministic)
    assert torch.equal(x, kept[0]) and torch.equal(grad, kept[1])
    row = registry.activation("mish")
    value, d1, d2 = (accuracy.truth_of(row, order, x, 0, 0) for order in ("value", "d1", "d2"))
    expected = value, grad * d1, grad * d1, grad * grad * d2
    for got, exact in zip((y, grad_x, for_grad, for_x), expected, strict=True):
        assert got.stride() == torch.empty_like(x).stride()
        torch.testing.assert_close(got, exact.float(), rtol=2e-5, atol=1e-6)


@executes
@pytest.mark.parametrize("layout", ["odd-length", "half", "strided", "channels_last"])
def test_in_place(layout: str):
    x = _layouts()[layout].to(DEVICE)
    expected = BACKEND.forward("gelu", x, 0, 0)
    assert BACKEND.forward("gelu", x, 0, 0, out=x) is x
    assert torch.equal(x, expected)


def test_plan():
    x = torch.randn(6, 4, 10)
    assert plan(x, x) == Geometry(1, 240, (240, 240))
    assert plan(x.mT, torch.empty_like(x.mT)) == Geometry(1, 240, (240, 240))
    assert plan(x.chunk(2, -1)[0], torch.empty(6, 4, 5)) == Geometry(24, 5, (10, 5))
    assert plan(x.chunk(2, 1)[1], torch.empty(6, 2, 10)) == Geometry(6, 20, (40, 20))
    assert plan(torch.randn(10).expand(4, 10), torch.empty(4, 10)) == Geometry(4, 10, (0, 10))
    assert plan(x.mT, torch.empty(6, 10, 4)) is None
    assert plan(x[..., ::2], torch.empty(6, 4, 5)) is None
    assert plan(torch.empty(4, 10), torch.empty(10).expand(4, 10)) is None
    assert plan(torch.tensor(1.0), torch.tensor(1.0)) == Geometry(1, 1, (1, 1))
    assert plan(torch.empty(3, 0).t(), torch.empty(0, 3)).rows == 0


def test_unavailable_says_why():
    if not HAS_TRITON:
        assert "not installed" in BACKEND.unavailable(torch.device("cuda"))
    elif not INTERPRETED:
        assert "got cpu" in BACKEND.unavailable(torch.device("cpu"))
        assert BACKEND.unavailable(torch.device("cuda")) is None


def test_importing_the_package_leaves_triton_alone():
    code = "import sys, nnkernels.triton; sys.exit('triton.language' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0


@compiles
def test_every_row_has_formulas():
    from nnkernels.triton.activations import FORMULAS

    assert set(FORMULAS) == {*NAMES, registry.IDENTITY.name}


@compiles
def test_constants_keep_double_precision():
    """A Python float becomes fp32 without the annotation."""
    from nnkernels.triton import kernels

    for kernel in (kernels.forward, kernels.backward, kernels.double_backward):
        assert [p.annotation_type for p in kernel.params if p.name in "ab"] == ["fp64", "fp64"]


KINDS = ("forward", "backward", "double_backward")


@functools.cache
def _compiled(kind: str, name: str, dtype: str, arch: str, flat: bool = True, even: bool = True) -> Any:
    """What `backend._launch` would have compiled for aligned tensors."""
    from nnkernels.triton import backend, hardware, kernels
    from nnkernels.triton.activations import FORMULAS

    kernel, formula = getattr(kernels, kind), FORMULAS[name]
    formulas = {"VALUE": formula.value, "D1": formula.d1, "D2": formula.d2, "MASKS": activation(name).masks}
    block = hardware.TILE_BYTES // (1 if kind == "forward" else 2) // DTYPES[dtype].itemsize
    tile = (1, block) if flat else (block // backend._ROW_TILE, backend._ROW_TILE)
    constants = {**formulas, "FLAT": flat, "EVEN": even, "BLOCK_ROWS": tile[0], "BLOCK_COLS": tile[1]}
    constants |= {"rows": 1} if flat else {}
    uneven = ("rows",) if even else ("rows", "cols")
    return compile_ahead(kernel, arch, dtype, constants, hardware.NUM_WARPS, uneven=uneven)


@compiles
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_compiles_without_spilling(arch: str, name: str, fresh_cache, tmp_path):
    for dtype in ("bf16", "fp32") if arch == "sm_90" else ("bf16",):
        for kind in KINDS if arch == "sm_90" else KINDS[:2]:
            assert spills(_compiled(kind, name, dtype, arch), tmp_path) == 0, (kind, dtype)


@compiles
@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("dtype", ["bf16", "fp32", "fp64"])
def test_memory_accesses_are_16_bytes_wide(dtype: str, flat: bool, even: bool, fresh_cache):
    ptx = _compiled("forward", "silu", dtype, "sm_90", flat, even).asm["ptx"]
    wide = r"global\.v2\.b64" if dtype == "fp64" else r"global\.v4\.b32"
    for access in ("ld", "st"):
        assert len(re.findall(rf"{access}\.{wide}", ptx)) == 4, access
    narrow = re.findall(r"(?:ld|st)\.global\.b(?:16|32|64)", ptx)
    assert bool(narrow) == (not even)
    if flat:
        assert not re.search(r"\b(?:div|rem)\.[su]", ptx)


@compiles
def test_subnormal_numbers_are_not_flushed(fresh_cache):
    """In 16 bits exp2 may flush, which is fed half the exponent, and the reciprocal root, which is fed 1 and more."""
    for name in ("silu", "gelu", "softplus"):
        assert ".ftz" not in _compiled("forward", name, "fp32", "sm_90").asm["ptx"]
        assert set(re.findall(r"\S+\.ftz\S*", _compiled("forward", name, "bf16", "sm_90").asm["ptx"])) <= {
            "ex2.approx.ftz.f32",
            "rsqrt.approx.ftz.f32",
        }
