"""Compilers, exporters, modes and subclasses: wherever a torch activation works, ours does."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import nnkernels.functional as F
import nnkernels.nn as ours
from nnkernels import accuracy
from nnkernels.benchmark import ours as call_of
from nnkernels.registry import Activation, catalogue


def points() -> torch.Tensor:
    return torch.linspace(-3.9, 3.9, 16, dtype=torch.float64)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield


def test_fullgraph_compile_of_value_gradient_and_jvp(row):
    f, x = call_of(row), points()

    def total(x):
        return f(x).sum()

    def tangent(x):
        return torch.func.jvp(f, (x,), (x,))[1]

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(compiled(leaf), f(x))
    torch.testing.assert_close(
        torch.autograd.grad(compiled(leaf).sum(), leaf)[0], torch.autograd.grad(f(leaf).sum(), leaf)[0]
    )
    for g in (torch.func.grad(total), tangent):
        torch.testing.assert_close(torch.compile(g, fullgraph=True, backend="aot_eager")(x), g(x))


def test_compile_inplace_and_modules():
    model = torch.nn.Sequential(ours.Mish(), ours.ReLU(inplace=True), ours.GELU("sigmoid"), ours.Softplus())
    x = torch.randn(4, 5)
    expected = model(x)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected)


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    model = torch.nn.Sequential(*(getattr(ours, row.module)(*given(row)) for row in catalogue(Activation)))
    x = torch.randn(3, 4)
    exported = torch.export.export(model, (x,), strict=strict)
    torch.testing.assert_close(exported.module()(x), model(x))


def given(row) -> tuple[float, ...]:
    return accuracy.constants_of(row)[: len(row.parameters)] if row.name != "gelu" else ()


def test_symbolic_trace_records_the_public_functions():
    traced = torch.fx.symbolic_trace(torch.nn.Sequential(ours.Mish(), ours.LeakyReLU(0.2)))
    targets = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert targets == [F.mish, F.leaky_relu]
    x = torch.randn(5)
    torch.testing.assert_close(traced(x), ours.LeakyReLU(0.2)(ours.Mish()(x)))


def test_symbolic_trace_goes_through_every_module():
    forms = [
        ours.BatchNormAct1d(8, activation="silu"), ours.BiasAct(8, "gelu"), ours.LayerNormAct(8, activation="mish"),
        ours.RMSNormAct(8), ours.GroupNormAct(2, 8), ours.PReLU(), ours.Softmax(-1), ours.Maxout(2), ours.GLU(),
        ours.Dropout(), ours.RReLU(),
    ]  # fmt: skip
    for form in forms:
        model, x = form.eval(), torch.randn(4, 8)
        torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), model(x))


def test_an_implicit_dimension_compiles_whole():
    x = torch.randn(3, 4)
    compiled = torch.compile(ours.Softmax(), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), torch.softmax(x, 1))


def test_fake_meta_and_proxy_tensors(row):
    f = call_of(row)
    with FakeTensorMode():
        assert f(torch.empty(2, 3)).shape == (2, 3)
    assert f(torch.empty(2, 3, device="meta")).device.type == "meta"
    x = points()
    torch.testing.assert_close(make_fx(f)(x)(x), f(x))


def test_jit_trace():
    x = torch.randn(5)
    torch.testing.assert_close(torch.jit.trace(ours.Mish(), x)(x), ours.Mish()(x))


def test_subclasses_keep_their_type():
    class Tagged(torch.Tensor):
        pass

    assert type(F.mish(torch.randn(3).as_subclass(Tagged))) is Tagged


def test_a_mode_sees_operators_it_knows():
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False):
        F.mish(torch.randn(3))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_autocast_gives_torchs_types(row, dtype, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    peer = getattr(torch.nn.functional, row.name, None)
    if peer is None:
        pytest.skip("torch has no function of this name")
    x = torch.randn(5, device=device, dtype=dtype)
    constants = accuracy.constants_of(row)[: len(row.parameters)]
    with torch.autocast(device, torch.bfloat16):
        assert F.function_of(row)(x, *constants).dtype == peer(x, *constants).dtype


def module_of(row) -> torch.nn.Module:
    return getattr(ours, row.module)(*given(row))


def test_modules_are_those_of_torch(row):
    made = module_of(row)
    base = getattr(torch.nn, row.module, None)
    x = torch.randn(4, 3)
    buffer = io.BytesIO()
    torch.save(made, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), torch.load(buffer, weights_only=False)):
        assert type(twin) is type(made) and repr(twin) == repr(made)
        assert torch.equal(twin(x), made(x))
    if base is not None:
        theirs = base(*given(row))
        assert isinstance(made, base) and repr(made) == repr(theirs)
        assert made.state_dict() == theirs.state_dict() == {}
        torch.testing.assert_close(made(x), theirs(x))
