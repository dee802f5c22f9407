"""The wheel serves where there is no compiler: installed into fresh environments by `make test-wheel`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

WHEEL = os.environ.get("NNKERNELS_WHEEL")
TORCHES = os.environ.get("NNKERNELS_WHEEL_TORCHES", "").split()

SCRIPT = """
import torch, nnkernels, nnkernels.nn
from nnkernels import autograd, dispatch, functional, native
assert torch.__version__.startswith("{torch}"), torch.__version__
assert autograd.has_cpp_node(), native.node_versions()
assert not isinstance(dispatch.named("cpu"), str), dispatch.named("cpu")
assert native.build_info()["stable_abi_target"] == "2.11"


def is_ours_in_cpp(node):
    return node.name().startswith("NNKernels") and not isinstance(node, torch.autograd.function.BackwardCFunction)


for name in ("silu", "gelu", "relu6", "elu"):
    x = torch.linspace(-5, 5, 1001, dtype=torch.float64)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = getattr(functional, name)(ours), getattr(torch.nn.functional, name)(theirs)
    assert is_ours_in_cpp(y.grad_fn), y.grad_fn
    y.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
for attempt in range(4):  # by then the plan of the form is C++'s
    x = torch.linspace(-3, 3, 60).reshape(6, 10).requires_grad_()
    y = functional.softmax(x, -1)
    y.square().sum().backward()
assert is_ours_in_cpp(y.grad_fn), y.grad_fn
torch.testing.assert_close(y, torch.softmax(x, -1))
"""


@pytest.mark.skipif(not WHEEL, reason="needs the wheel that make wheel builds; run by make test-wheel")
@pytest.mark.parametrize("torch", TORCHES)
def test_installed_in_seconds_without_a_compiler_its_node_serves(torch, tmp_path):
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python = venv / "bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"torch=={torch}", "numpy"], check=True)

    bare = {"PATH": str(venv / "bin"), "HOME": str(tmp_path)}  # no compiler, no checkout
    start = time.monotonic()
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", Path(str(WHEEL)).resolve()]
    subprocess.run(install, check=True, cwd=tmp_path, env=bare)
    assert time.monotonic() - start < 60
    done = subprocess.run(
        [python, "-c", SCRIPT.format(torch=torch)], cwd=tmp_path, env=bare, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
