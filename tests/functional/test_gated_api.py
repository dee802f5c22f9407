"""Gated activations as a user meets them: errors, modules, subclasses, the catalogue's rows."""

from __future__ import annotations

import copy
import doctest
import importlib
import math
import pickle

import pytest
import torch
from torch import Tensor

import nnkernels.functional as F
from nnkernels import nn
from nnkernels.registry import Gated, activation, catalogue


def test_no_autocast_as_in_torchs_glu():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert F.swiglu(torch.randn(2, 4)).dtype == torch.float32
        assert F.swiglu(torch.randn(2, 4).bfloat16()).dtype == torch.bfloat16


BAD = {
    "odd": (lambda: F.glu(torch.zeros(3, 5)), RuntimeError, r"dim -1 .*\(3, 5\).* 5"),
    "odd dim": (lambda: F.swiglu(torch.zeros(3, 4), dim=0), RuntimeError, r"dim 0 .*\(3, 4\).* 3"),
    "no dim": (lambda: F.glu(torch.tensor(1.0)), RuntimeError, "dimension"),
    "dim out of range": (lambda: F.glu(torch.zeros(2, 2), 2), IndexError, r"dim 2 .*\(2, 2\)"),
    "shapes": (lambda: F.swiglu(torch.zeros(2, 3), torch.zeros(3)), ValueError, r"\(2, 3\) and \(3,\)"),
    "dtypes": (lambda: F.swiglu(torch.zeros(2), torch.zeros(2).half()), ValueError, "float32 and torch.float16"),
    "devices": (lambda: F.swiglu(torch.zeros(2), torch.zeros(2, device="meta")), ValueError, "cpu and meta"),
    "unknown gate": (lambda: F.gated(torch.zeros(2), "silly"), ValueError, "silly.*'silu'"),
    "gate that gates": (lambda: F.gated(torch.zeros(2), "swiglu"), ValueError, "swiglu.*stateless"),
    "limit": (lambda: F.swiglu(torch.zeros(2), limit=0.0), ValueError, "limit .*0.0"),
    "limit is NaN": (lambda: F.swiglu(torch.zeros(2), limit=math.nan), ValueError, "limit .*nan"),
    "pairs of two": (lambda: F.swiglu(torch.zeros(2), torch.zeros(2), interleaved=True), ValueError, "interleaved"),
    "order of two": (lambda: F.reglu(torch.zeros(2), torch.zeros(2), gate_first=False), ValueError, "gate_first"),
    "constant": (lambda: F.gated(torch.zeros(2), "silu", alpha=1.0), TypeError, "silu .*'alpha'.*no constants"),
    "other constant": (lambda: F.gated(torch.zeros(2), "elu", beta=1.0), TypeError, "elu .*'beta'.*alpha"),
    "constant left out": (
        lambda: F.gated(torch.zeros(2), "threshold", value=1.0),
        TypeError,
        "threshold needs threshold=",
    ),
    "refused constant": (lambda: F.gated(torch.zeros(2), "softshrink", lambd=-1.0), RuntimeError, "-1.0"),
    "approximate": (lambda: F.geglu(torch.zeros(2), approximate="cubic"), RuntimeError, "'tanh'.*'cubic'"),
    "integers": (lambda: F.swiglu(torch.zeros(2, 4).long()), NotImplementedError, r"int64.*\(2, 4\)"),
    "integers for glu": (lambda: F.glu(torch.zeros(2, 4).long()), RuntimeError, r"int64.*\(2, 4\)"),
    "not a tensor": (lambda: F.glu([1.0, 2.0]), TypeError, "list"),
    "up is no tensor": (lambda: F.swiglu(torch.zeros(2), 3.0), TypeError, "'up'.*float"),
    "cap": (lambda: F.situ_glu(torch.zeros(2), beta=0.0), ValueError, "beta .*0.0"),
    "cap of up": (lambda: F.situ_glu(torch.zeros(2), linear_beta=math.inf), ValueError, "linear_beta .*inf"),
    "module's cap": (lambda: nn.SiTUGLU(beta=-1.0), ValueError, "-1.0"),
    "module": (lambda: nn.Gated("silly"), ValueError, "silly"),
    "module's limit": (lambda: nn.SwiGLU(limit=-1.0), ValueError, "-1.0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case: str):
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()


MODULES = {
    "GLU(dim=1)": lambda: nn.GLU(1),
    "Gated('leaky_relu', dim=1, negative_slope=0.5)": lambda: nn.Gated("leaky_relu", 1, negative_slope=0.5),
    "SwiGLU(dim=1)": lambda: nn.SwiGLU(1),
    "SwiGLU(dim=1, interleaved=True, limit=7.0, offset=1.0, beta=1.702)": lambda: nn.SwiGLU(
        1, beta=1.702, interleaved=True, limit=7.0, offset=1.0
    ),
    "GEGLU(dim=1, gate_first=False, approximate='tanh')": lambda: nn.GEGLU(1, approximate="tanh", gate_first=False),
    "ReGLU(dim=1)": lambda: nn.ReGLU(1),
    "SiTUGLU(dim=1, beta=2.0, linear_beta=None)": lambda: nn.SiTUGLU(1, beta=2.0, linear_beta=None),
    "SiTUGLU(dim=1, beta=4.0, linear_beta=25.0, interleaved=True, gate_first=False)": lambda: nn.SiTUGLU(
        1, interleaved=True, gate_first=False
    ),
}


@pytest.mark.parametrize("shown", MODULES)
def test_modules(shown: str):
    module, x = MODULES[shown](), torch.randn(2, 6, 3)
    assert repr(module) == shown and not module.state_dict()
    y = module(x)
    assert y.shape == (2, 3, 3)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert repr(other) == shown and torch.equal(other(x), y)


def test_modules_take_two_tensors_too():
    gate, up = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(nn.SwiGLU()(gate, up), F.swiglu(gate, up))
    assert isinstance(nn.GLU(), torch.nn.GLU) and repr(nn.GLU()) == repr(torch.nn.GLU())


def test_subclasses_see_the_public_function():
    seen = []

    class Watcher(Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            seen.append((function, dict(kwargs or {})))
            return torch.zeros(1)

    x = torch.zeros(2, 4).as_subclass(Watcher)
    F.glu(x)
    F.swiglu(x, limit=2.0)
    F.swiglu(torch.zeros(2, 4), x)
    F.gated(x, "elu", alpha=2.0)
    assert [function for function, _ in seen] == [F.glu, F.swiglu, F.swiglu, F.gated]
    assert seen[1][1]["limit"] == 2.0 and seen[3][1]["alpha"] == 2.0


def test_rows_and_examples():
    for row in catalogue(Gated):
        assert row.name in F.__all__ and row.module in nn.__all__
        assert all((row.formula, row.derivative, row.range, row.source, row.good_for, row.drawback))
        assert pickle.loads(pickle.dumps(row)) is activation(row.name)
    for name in ("functional.gated", "functional.named_gates", "nn.gated", "nn.named_gates"):
        module = importlib.import_module(f"nnkernels.{name}")
        results = doctest.testmod(module)
        assert results.attempted and not results.failed
