"""A user's own activation is served like a native one."""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nnkernels
import nnkernels.functional as F
from nnkernels import accuracy, nn, registry
from nnkernels.benchmark import compare
from nnkernels.commands import check

PAGE = (Path(__file__).parents[2] / "docs/registering.md").read_text()


def bent(x, alpha=0.5):
    return torch.where(x > 0, x, alpha * x * torch.exp(x))


@pytest.fixture
def row():
    if "bent" not in nnkernels.activations():
        nnkernels.register("bent", reference=bent, parameters={"alpha": 0.5}, inplace=True)
    return registry.elementwise("bent")


@pytest.fixture(autouse=True)
def leaves_no_trace(monkeypatch):
    """Other tests go through the catalogue: what is registered here must not outlive the test."""
    from nnkernels import functional, nn, reference

    tables = [registry._ROWS, reference.FORMULAS, vars(functional), vars(nn), vars(functional.elementwise)]
    tables += [vars(nn.elementwise), functional.elementwise._FUNCTIONS, functional.elementwise._ROWS]
    lists = [functional.__all__, nn.__all__, functional.elementwise.__all__, nn.elementwise.__all__]
    before = [(table, dict(table)) for table in tables], [(names, list(names)) for names in lists]
    yield
    for table, contents in before[0]:
        for added in table.keys() - contents.keys():
            del table[added]
    for names, contents in before[1]:
        names[:] = contents


def test_function_module_and_every_derivative(row):
    x = torch.randn(20, dtype=torch.float64, requires_grad=True)
    f = nnkernels.functional.bent
    assert torch.equal(f(x), bent(x)) and torch.equal(f(x, 2.0), bent(x, 2.0))
    assert torch.autograd.gradcheck(f, (x,), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(f, (x,))
    hessian = torch.func.hessian(lambda v: f(v).sum())(x.detach())
    assert torch.allclose(hessian, torch.func.hessian(lambda v: bent(v).sum())(x.detach()))
    module = nnkernels.nn.Bent(0.25)
    assert repr(module) == "Bent(alpha=0.25)"
    assert torch.equal(pickle.loads(pickle.dumps(module))(x), bent(x, 0.25))
    z = x.detach().clone()
    assert nnkernels.functional.bent_(z) is z and torch.equal(z, bent(x))


def test_compiles_saves_and_keeps_the_type(row):
    x = torch.randn(3, 5, requires_grad=True)
    compiled = torch.compile(nnkernels.functional.bent, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x), bent(x))
    for dtype in accuracy.LIMITS:
        assert nnkernels.functional.bent(x.to(dtype)).dtype == dtype
    with nnkernels.saving("compressed"):
        (slope,) = torch.autograd.grad(nnkernels.functional.bent(x).sum(), x)
    (exact,) = torch.autograd.grad(bent(x).sum(), x)
    assert (slope - exact).abs().max() < 1e-2


def test_check_and_bench_serve_it(row):
    assert check.gradients_hold(row, "cpu") == "ok"
    assert compare(row, torch.float32, 1024, rounds=1).ours_forward > 0
    with pytest.raises(RuntimeError, match="bent"), nnkernels.backend("cpu"):
        nnkernels.functional.bent(torch.zeros(2))


@pytest.mark.parametrize(
    ("error", "says", "arguments"),
    [
        (ValueError, "relu", {"name": "relu", "reference": torch.relu}),
        (ValueError, "a b", {"name": "a b", "reference": torch.relu}),
        (ValueError, "ReLU", {"name": "other", "reference": torch.relu, "module": "ReLU"}),
        (ValueError, "d1, d2", {"name": "other", "reference": torch.relu, "value": torch.relu}),
        (ValueError, "p, q, r", {"name": "other", "reference": torch.relu, "parameters": {"p": 1, "q": 1, "r": 1}}),
        (TypeError, "x, alpha", {"name": "other", "reference": lambda x: x, "parameters": {"alpha": 1.0}}),
        (TypeError, "shape", {"name": "other", "reference": lambda x: x.sum()}),
    ],
)
def test_what_cannot_be_registered_is_refused(error, says, arguments):
    before = nnkernels.activations()
    with pytest.raises(error, match=says):
        nnkernels.register(**arguments)
    assert nnkernels.activations() == before


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="the page's example is written in Triton")
def test_the_page_does_what_it_says(tmp_path):
    for name, code in re.findall(r"```python file=(\S+)\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / name).write_text(code)
    use = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL).group(1)
    env = {**os.environ, "PYTHONPATH": str(Path(nnkernels.__file__).parent.parent)}

    def run(*command, **more):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env={**env, **more}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
        return done.stdout

    run("-c", use + "\nassert torch.allclose(y, x + torch.sin(2 * x).square() / 2) and z.shape == (4, 4)")
    assert "0 failed" in run(
        "-m", "nnkernels", "--import", "my_snake", "check", "--activation", "fixed_snake", "--backend", "reference"
    )
    interpreted = (
        "import torch, nnkernels, my_snake; nnkernels.backend('triton'); x = torch.linspace(-3, 3, 99)"
        ".double().requires_grad_(); y = nnkernels.functional.fixed_snake(x, 2.0); y.sum().backward();"
        "assert torch.allclose(y, x + torch.sin(2 * x).square() / 2);"
        "assert torch.allclose(x.grad, 1 + torch.sin(4 * x))"
    )
    run("-c", interpreted, TRITON_INTERPRET="1")


def test_a_registered_constant_that_wants_a_gradient_is_refused():
    nnkernels.register("scaled_sine", reference=lambda x, omega: torch.sin(omega * x), parameters={"omega": 2.0})
    with pytest.raises(TypeError, match="omega"):
        F.scaled_sine(torch.ones(2), torch.tensor(1.0, requires_grad=True))
    with pytest.raises(TypeError, match="omega"):
        nn.ScaledSine(torch.nn.Parameter(torch.ones(())))
