"""The kernels of layer and rms norm as Triton compiles them for GPUs that need not be there."""

from __future__ import annotations

import re

import pytest
import torch
from triton_tools import compile_ahead, compiles, spills


@compiles
@pytest.mark.parametrize(
    ("name", "cols", "activation", "arch", "beside"),  # a gate, or the type of a sum of which bfloat16 is a part
    [
        ("forward_rows", 4096, "gelu", "sm_90", ""),
        ("forward_rows", 256, "identity", "sm_90", ""),
        ("forward_rows", 4096, "identity", "sm_100", ""),
        ("forward_long", 32768, "silu", "sm_90", ""),
        ("sums_long", 32768, "silu", "sm_90", ""),
        ("forward_rows", 4096, "identity", "sm_90", "bf16"),
        ("forward_long", 32768, "identity", "sm_90", "bf16"),
        ("backward", 4096, "identity", "sm_90", "bf16"),
        ("forward_rows", 1024, "identity", "sm_80", "fp32"),
        ("forward_rows", 4096, "identity", "sm_90", "fp32"),
        ("forward_long", 32768, "identity", "sm_100", "fp32"),
        ("backward", 1024, "identity", "sm_80", "fp32"),
        ("backward", 4096, "identity", "sm_90", "fp32"),
        ("backward", 32768, "identity", "sm_100", "fp32"),
        ("backward", 4096, "identity", "sm_80", ""),
        ("backward", 4096, "identity", "sm_100", ""),
        ("backward", 1024, "gelu", "sm_90", ""),
        ("backward", 32768, "silu", "sm_90", ""),
        ("add_partials", 4096, "identity", "sm_80", ""),
        ("forward_rows", 4096, "silu", "sm_90", "gate"),
        ("forward_long", 32768, "silu", "sm_90", "gate"),
        ("sums_long", 32768, "silu", "sm_90", "gate"),
        ("backward", 4096, "silu", "sm_90", "gate"),
        ("backward", 4096, "silu", "sm_80", "gate"),
        ("backward", 32768, "silu", "sm_100", "gate"),
    ],
)
def test_kernels_compile_without_spilling(name, cols, activation, arch, beside, tmp_path, monkeypatch):
    from nnkernels.triton import hardware, normalization, normalization_backward, normalization_kernels
    from nnkernels.triton.activations import FORMULAS

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(hardware, "shared_memory", lambda device: 160 * 1024)
    kernel = getattr(normalization_kernels if name.startswith("forward") else normalization_backward, name)
    backward, adds, gates = name == "backward", beside in ("bf16", "fp32"), beside == "gate"
    identity = activation == "identity"
    x, long = torch.empty(1, cols, dtype=torch.bfloat16), cols > normalization._MOST_COLUMNS
    wide_x = x.float() if backward and beside == "fp32" else x
    walk = normalization._backward_walk(cols, wide_x, 2 + adds + gates, identity)
    if name == "forward_rows":
        walk = normalization._forward_walk(cols, x, 1 + adds + gates, identity)
    block_cols, num_warps = walk.cols, walk.num_warps
    if name in ("forward_long", "sums_long"):
        block_cols, num_warps = normalization._LONG_TILE, 8
    elif name == "add_partials":
        block_cols, num_warps = normalization._PARTIALS_TILE[1], 4
    constants = {"VALUE": FORMULAS[activation].value, "D1": None if identity else FORMULAS[activation].d1}
    constants |= {"GATES": 2 * gates, "MASKS": False, "CENTRED": not gates, "FULL": True, "STAGES": walk.stages}
    constants |= {"BLOCK": normalization._PARTIALS_TILE[0], "BLOCK_COLS": block_cols}
    constants |= {"ROWS": walk.rows, "PARTS": walk.parts, "WIDTH": walk.width}
    sums = ("addend_ptr", "total_ptr", "grad_sum_ptr", "grad_x_ptr", *(["x_ptr"] if backward else []))
    missing = [*(() if gates else ("residual_ptr", "grad_residual_ptr")), *(() if adds else sums[:3])]
    missing += [] if beside == "fp32" else ["narrowed_ptr"]
    constants |= {**dict.fromkeys(missing), **({} if long else {"sums_ptr": None})}
    constants |= {"SPLITS": 32 if long else 1}
    wide = ("statistics_ptr", "sums_ptr", "for_weight_ptr", "for_bias_ptr", "weight_partial_ptr", "bias_partial_ptr")
    types = dict.fromkeys(wide + (sums if beside == "fp32" else ()), "*fp32") | {
        "partial_ptr": "*fp64",
        "counts_ptr": "*i32",
    }
    compiled = compile_ahead(kernel, arch, "bf16", constants, num_warps, types, uneven=("rows", "partials"))
    assert spills(compiled, tmp_path) == 0
    assert re.search(r"ld\.global\S*\.v4\.b32|cp\.async\.cg\S* .*, 0x10", compiled.asm["ptx"])
    if name != "add_partials" and name != "sums_long":
        assert re.search(r"st\.global\S*\.v4\.b32", compiled.asm["ptx"])
    if cols == 256:  # a row is eight threads', which exchange three sums; 32 threads, or a tile's, exchange far more
        assert compiled.asm["ptx"].count("shfl") <= 9
