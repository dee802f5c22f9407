"""The gated kernels as Triton compiles them for GPUs that need not be there."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
from triton_tools import DTYPES, NVIDIA, compile_ahead, compiles, spills

from nnkernels import registry


@functools.cache
def _compiled(kind: str, name: str, dtype: str, arch: str, pairs: int = 0, even: bool = True, caps: int = 0) -> Any:
    """What `_launch` would have compiled for a packed tensor with long rows, or for pairs, which are flat."""
    from nnkernels.triton import gated, hardware
    from nnkernels.triton.activations import FORMULAS

    kernel, formula = getattr(gated, kind), FORMULAS[name]
    block = (2048 if pairs else 4096) // DTYPES[dtype].itemsize
    tile = gated.tile_shape(1 if pairs else 64, 8192, block)
    constants = {"VALUE": formula.value, "D1": formula.d1, "MASKS": registry.elementwise(name).masks, "BOUNDED": False}
    constants |= {"CAPS": caps}
    constants |= {"PAIRS": pairs, "FLAT": bool(pairs), "EVEN": even, "BLOCK_ROWS": tile[0], "BLOCK_COLS": tile[1]}
    constants |= ({"rows": 1} if pairs else {}) | ({"y_ptr": None} if kind == "backward" else {})
    uneven = ("rows",) if even else ("rows", "cols")
    return compile_ahead(kernel, arch, dtype, constants, hardware.NUM_WARPS, uneven=uneven)


@compiles
@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh", "mish"])
@pytest.mark.parametrize("arch", NVIDIA)
def test_compiles_without_spilling(arch: str, name: str, fresh_cache, tmp_path):
    for dtype in ("bf16", "fp32") if arch == "sm_90" else ("bf16",):
        for kind in ("forward", "backward"):
            assert spills(_compiled(kind, name, dtype, arch), tmp_path) == 0, (kind, dtype)


@compiles
@pytest.mark.parametrize("arch", NVIDIA)
def test_caps_compile_without_spilling(arch: str, fresh_cache, tmp_path):
    for dtype in ("bf16", "fp32"):
        for kind in ("forward", "backward"):
            assert spills(_compiled(kind, "sigmoid", dtype, arch, caps=3), tmp_path) == 0, (kind, dtype)


@compiles
@pytest.mark.parametrize("pairs", [0, 1, 2], ids=["halves", "gate even", "gate odd"])
def test_memory_accesses_are_16_bytes_wide(pairs: int, fresh_cache):
    counts = (("forward", 2, 1), ("backward", 3, 2)) if pairs else (("forward", 4, 2), ("backward", 6, 4))
    for kind, loads, stores in counts:
        ptx = _compiled(kind, "silu", "bf16", "sm_90", pairs).asm["ptx"]
        assert len(re.findall(r"ld\.global\.v4\.b32", ptx)) == loads
        assert len(re.findall(r"st\.global\.v4\.b32", ptx)) == stores
        assert not re.search(r"(?:ld|st)\.global\.b(?:16|32|64)", ptx)


@compiles
def test_constants_keep_double_precision():
    from nnkernels.triton import gated

    for kernel in (gated.forward, gated.backward):
        scalars = [p.annotation_type for p in kernel.params if p.name in ("a", "b", "limit", "offset")]
        assert scalars == ["fp64"] * 4
