"""Triton's kernels where there is no GPU: interpreted in a second pytest, since TRITON_INTERPRET has to be set before
Triton is imported, and compiled ahead of time for GPUs that need not be there.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import nnkernels
from nnkernels import dispatch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_TRITON = importlib.util.find_spec("triton") is not None
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}
NVIDIA = {"sm_80": 80, "sm_90": 90, "sm_100": 100}

executes = pytest.mark.skipif(not INTERPRETED and not (HAS_TRITON and torch.cuda.is_available()), reason="needs a GPU")
compiles = pytest.mark.skipif(INTERPRETED or not HAS_TRITON, reason="needs Triton's compiler")


def on_each_backend(*backends: str) -> Any:
    """A fixture: a device, with the backend chosen that serves it; of GPUs' kernels alone under the interpreter."""

    @pytest.fixture(params=["triton"] if INTERPRETED else backends)
    def device(request: pytest.FixtureRequest) -> Iterator[str]:
        found, at = dispatch.named(request.param), DEVICE if request.param in ("cuda", "triton") else "cpu"
        if at == "cuda" and not torch.cuda.is_available():
            pytest.skip("needs a GPU; test_under_the_interpreter runs it interpreted")
        if isinstance(found, str):
            pytest.skip(found)
        with nnkernels.backend(request.param):
            yield at

    return device


def interpret(*files: str, only: str = "triton") -> None:
    """Runs the tests of `files` whose names match `only` under Triton's interpreter, unless a GPU runs them anyway."""
    if torch.cuda.is_available():
        pytest.skip("the kernels run on the GPU itself")
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", only, *files]
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def compile_ahead(
    kernel: Any,
    arch: str,
    dtype: str,
    constants: Mapping[str, Any],
    num_warps: int,
    types: Mapping[str, str] | None = None,
    uneven: tuple[str, ...] = (),
    **options: int,
) -> Any:
    """What a launch would have compiled: tensors of `dtype` but for those in `types`, aligned to 16 bytes, and integers
    divisible by 16 but for the `uneven`."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, divisible = {}, {}
    for i, parameter in enumerate(kernel.params):
        name = parameter.name
        if name in constants:
            signature[name] = "constexpr"
            continue
        pointer = name.endswith("_ptr")
        signature[name] = (types or {}).get(name) or (f"*{dtype}" if pointer else parameter.annotation_type or "i32")
        if pointer or (signature[name].startswith("i") and name not in uneven):
            divisible[i,] = [["tt.divisibility", 16]]
    used = {name: value for name, value in constants.items() if name in signature}
    source = ASTSource(fn=kernel, signature=signature, constexprs=used, attrs=divisible)
    target = GPUTarget("cuda", NVIDIA[arch], 32) if arch in NVIDIA else GPUTarget("hip", arch, 64)
    return triton.compile(source, target=target, options={"num_warps": num_warps, **options})


def spills(compiled: Any, folder: Path) -> int:
    """Bytes of stack and local memory, from the machine code itself; on AMD the registers spilled."""
    if "cubin" not in compiled.asm:
        return sum(map(int, re.findall(r"[sv]gpr_spill_count: *(\d+)", compiled.asm["amdgcn"])))
    import triton

    (folder / "kernel.cubin").write_bytes(compiled.asm["cubin"])
    cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    usage = subprocess.check_output([cuobjdump, "-res-usage", folder / "kernel.cubin"], text=True)
    stack, local = re.search(r"STACK:(\d+).*LOCAL:(\d+)", usage).groups()
    return int(stack) + int(local)


@contextmanager
def faithful() -> Iterator[None]:
    """Gives the interpreter the hardware's fused multiply-add and bfloat16, which it lacks, and larger tiles."""
    import numpy as np
    from triton.runtime import interpreter

    from nnkernels.triton import hardware

    def create_fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        return interpreter.TensorHandle(_fused_multiply_add(x.data, y.data, z.data), z.dtype.scalar)

    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        patch.setattr(interpreter.InterpreterBuilder, "create_fma", create_fma)
        patch.setattr(interpreter, "_convert_float", _convert)
        patch.setattr(hardware, "TILE_BYTES", 2**18)
        yield


def _fused_multiply_add(x: Any, y: Any, z: Any) -> Any:
    """x y + z with one rounding in float32, and with the exact product in float64 (Dekker 1971, Knuth)."""
    import numpy as np

    if x.dtype == np.float32:
        return (x.astype(np.float64) * y + z).astype(np.float32)

    def split(v: Any) -> tuple[Any, Any]:
        high = 134217729.0 * v - (134217729.0 * v - v)
        return high, v - high

    product = x * y
    (x1, x2), (y1, y2) = split(x), split(y)
    lost = ((x1 * y1 - product) + x1 * y2 + x2 * y1) + x2 * y2
    total = product + z
    shift = total - product
    lost += (product - (total - shift)) + (z - shift)
    return total + np.where(np.isfinite(lost), lost, 0.0)


def _convert(data: Any, source: Any, target: Any, mode: Any) -> Any:
    """float32 from and to bfloat16, rounded to nearest, subnormal numbers included."""
    import numpy as np
    import triton.language as tl

    data = np.ascontiguousarray(data)
    if source == tl.bfloat16:
        return (data.astype(np.uint32) << 16).view(np.float32)
    return torch.from_numpy(data).bfloat16().view(torch.int16).numpy().view(np.uint16)
