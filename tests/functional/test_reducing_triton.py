"""The Triton kernels of softmax: what the interpreter shows of them, and what the compiler makes of them."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_reducing import assert_close
from triton_tools import INTERPRETED, compiles

import nnkernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.skipif(INTERPRETED or DEVICE == "cuda", reason="the kernels are tested as they are")
def test_under_the_interpreter():
    root = Path(__file__).parents[2]
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    chosen = "triton and bfloat16 and (plain or 1025 or same-add or float32-keep) or masked or chunks"
    files = ["tests/functional/test_reducing.py", "tests/functional/test_reducing_gradients.py"]
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-k", chosen, *files]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.skipif(DEVICE == "cpu", reason="chunks of a row wait for each other, which only a GPU runs side by side")
@pytest.mark.parametrize("processors", [None, 0], ids=["chunks", "two passes"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("rows", "cols"), [(1000, 20_001), (301, 65_536), (7, 262_144)])
def test_long_rows(rows, cols, dtype, processors, monkeypatch):
    from nnkernels.triton import reducing

    if processors is not None:
        monkeypatch.setattr(reducing, "_processors", lambda device: processors)
    torch.manual_seed(3)
    x, grad = (torch.randn(rows, cols, device=DEVICE).to(dtype) for _ in range(2))
    with nnkernels.backend("triton"):
        assert_close(x, -1, grad)


@compiles
@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("name", ["softmax_rows", "softmax_long", "softmax_columns"])
@pytest.mark.parametrize("direction", ["reducing_kernels", "reducing_backward"])
@pytest.mark.parametrize("log", [False, True], ids=["softmax", "log_softmax"])
def test_kernels_compile_and_move_vectors(log, direction, name, arch, tmp_path, monkeypatch):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(importlib.import_module(f"nnkernels.triton.{direction}"), name)
    # Sizes of which nothing is known but that 8 divides them.
    constants = {"LOG": log, "MASK": 0, "CAUSAL": False, "SCALED": False, "NEGATIVE": False, "MASKED": False}
    constants |= {"KEEPS": log, "FROM_INPUT": log}  # backward from the input, as 16-bit logarithms have it
    constants |= {"FULL": False, "ONCE": False, "ALIGN": 8, "BLOCK_ROWS": 1, "BLOCK_COLS": 2048}
    constants |= {"BLOCK": 2048, "PARTS": 32, "BLOCK_N": 32, "BLOCK_INNER": 64}
    known = {"partial_ptr": "*fp32", "tops_ptr": "*fp32", "norms_ptr": "*fp32", "counts_ptr": "*i32", "scale": "fp64"}
    signature, divisible = {}, {}
    for i, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
            continue
        signature[argument] = known.get(argument, "*bf16" if argument.endswith("_ptr") else "i32")
        if argument.endswith("_ptr"):
            divisible[i,] = [["tt.divisibility", 16]]
    given = {argument: value for argument, value in constants.items() if argument in signature}
    source = ASTSource(fn=kernel, signature=signature, constexprs=given, attrs=divisible)
    ptx = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": 4}).asm["ptx"]
    assert re.search(r"ld\.global\S*\.v4\.b32", ptx) and re.search(r"st\.global\S*\.v4\.b32", ptx)
