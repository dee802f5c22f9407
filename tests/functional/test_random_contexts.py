"""rrelu and dropout where a user of torch would meet them: PyTorch's semantics, compilers, transforms, modes."""

from __future__ import annotations

import copy
import doctest
import importlib
import importlib.util
import math
import pickle
import re

import pytest
import torch
from draws import BACKENDS, DEVICE, EVERY_DTYPE, FUNCTIONS, LAYOUTS, LOWER, UPPER, draw, require
from torch import Tensor
from triton_tools import INTERPRETED

import nnkernels
import nnkernels.functional as F
import nnkernels.nn as ours
from nnkernels.reference import random as reference


@EVERY_DTYPE
def test_evaluation_is_a_leaky_relu(dtype):
    x = torch.randn(1000, device=DEVICE).to(dtype).requires_grad_()
    theirs = x.detach().clone().requires_grad_()
    wide = theirs.float() if dtype == torch.float16 else theirs
    y, expected = F.rrelu(x, 0.1, 0.3), torch.nn.functional.rrelu(wide, 0.1, 0.3).to(dtype)
    assert torch.equal(y, expected)
    assert torch.equal(*(torch.autograd.grad(out.sum(), leaf)[0] for out, leaf in ((y, x), (expected, theirs))))


@BACKENDS
def test_zero_infinity_and_nan(name):
    require(name)
    with nnkernels.backend(name):
        x = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0], device=DEVICE, requires_grad=True)
        y = F.rrelu(x, training=True)
        (slope,) = torch.autograd.grad(y.sum(), x)
        assert y[0].isnan() and y[1:].tolist() == [math.inf, -math.inf, 0.0, -0.0]
        assert y[4].signbit() and not y[3].signbit()
        assert slope[:2].tolist() == [1.0, 1.0] and (slope[2:] < 0.4).all()  # at 0 as below, as in torch
        assert F.dropout(torch.full((64,), math.nan, device=DEVICE)).isnan().all()


def test_dropout_of_nothing_and_of_everything():
    x = torch.randn(9, device=DEVICE, requires_grad=True)
    assert F.dropout(x, 0.0) is x and F.dropout(x, 0.5, training=False) is x
    y = F.dropout(x, 1.0)
    assert torch.equal(y, torch.zeros_like(x))
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.zeros_like(x))
    filled = torch.ones(9)
    assert F.dropout(filled, 1.0, inplace=True) is filled and not filled.any()


@FUNCTIONS
@pytest.mark.parametrize("layout", ["0-dim", "empty", "contiguous", "channels_last", "half", "odd half", "every other"])
def test_in_place_is_out_of_place(layout, function):
    x = LAYOUTS[layout]().to(DEVICE)
    torch.manual_seed(12)
    expected = draw(function, x)
    torch.manual_seed(12)
    y = (
        F.rrelu(x, LOWER, UPPER, training=True, inplace=True)
        if function == "rrelu"
        else F.dropout(x, 0.3, inplace=True)
    )
    assert y is x and torch.equal(y, expected)


def test_refusals():
    x = torch.randn(3, requires_grad=True)
    for training in (False, True):
        with pytest.raises(ValueError, match=r"0\.5.*0\.2"):
            F.rrelu(x, 0.5, 0.2, training)
        for bounds in ((math.nan, 1.0), (0.0, math.inf)):
            with pytest.raises(ValueError, match="finite"):
                F.rrelu(x, *bounds, training)
        with pytest.raises(RuntimeError, match="leaf"):
            F.rrelu_(x, training=training)
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=str(p)):
            F.dropout(x, p)
    with pytest.raises(RuntimeError, match="leaf"):
        F.dropout(x, inplace=True)
    for training in (False, True):
        with pytest.raises(NotImplementedError, match=r"int64.*\(2,\)"):
            F.rrelu(torch.tensor([1, 2]), training=training)
    with pytest.raises(RuntimeError, match=r"int64.*\(2,\)"):
        F.dropout(torch.tensor([1, 2]))
    for function in (F.rrelu, F.dropout):
        with pytest.raises(TypeError, match="list"):
            function([1.0])


def test_a_chosen_backend_is_honoured_or_refused():
    with nnkernels.backend("cuda"), pytest.raises(RuntimeError, match="random"):
        F.rrelu(torch.randn(3), training=True)


@pytest.mark.parametrize("made", [ours.RReLU(0.1, 0.4), ours.RReLU(inplace=True), ours.Dropout(0.3)], ids=repr)
def test_modules_are_those_of_torch(made):
    base = type(made).__mro__[1]
    assert base is getattr(torch.nn, type(made).__name__)
    x = torch.randn(500)
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert type(twin) is type(made) and repr(twin) == repr(made) and twin.state_dict() == {}
        torch.manual_seed(13)
        expected = made(x.clone())
        torch.manual_seed(13)
        assert torch.equal(twin(x.clone()), expected) and not torch.equal(expected, x)
        assert torch.equal(twin.eval()(x.clone()), base.forward(twin, x.clone()))


@pytest.mark.parametrize("module", [F.random, ours.random], ids=lambda module: module.__name__)
def test_the_examples_in_the_docstrings_run(module):
    assert doctest.testmod(module).failed == 0


@FUNCTIONS
@pytest.mark.parametrize("engine", ["aot_eager", "inductor"])
def test_fullgraph_compile(function, engine):
    if engine == "inductor" and DEVICE == "cpu" and INTERPRETED:
        pytest.skip("not a matter of Triton")
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: draw(function, x), fullgraph=True, backend=engine)
    x = torch.full((2**15,), -1.0, device=DEVICE, requires_grad=True)
    y, other = compiled(x), compiled(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, -y)
    assert not torch.equal(y, other)
    if function == "rrelu":
        u = (slope - LOWER) / (UPPER - LOWER)
        assert u.min() > -1e-6 and u.max() < 1 + 1e-6
        assert abs(u.mean() - 0.5) < 0.01 and abs(u.var() - 1 / 12) < 0.005
    else:
        assert abs((y == 0).double().mean() - 0.3) < 0.02 and y.unique().numel() == 2


def test_fullgraph_compile_in_evaluation_is_exact():
    torch._dynamo.reset()
    model = torch.nn.Sequential(ours.RReLU(0.1, 0.3), ours.Dropout()).eval()
    x = torch.randn(100)
    torch.testing.assert_close(
        torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x), rtol=2e-7, atol=0
    )


@FUNCTIONS
def test_vmap_draws_as_torchs_random_functions_do(function):
    x = torch.full((4, 100), -1.0)
    different = torch.func.vmap(lambda row: draw(function, row), randomness="different")(x)
    same = torch.func.vmap(lambda row: draw(function, row), randomness="same")(x)
    assert not torch.equal(different[0], different[1])
    assert all(torch.equal(same[0], row) for row in same)
    with pytest.raises(RuntimeError, match="random"):
        torch.func.vmap(lambda row: draw(function, row))(x)


@FUNCTIONS
def test_transforms(function):
    x = torch.full((20,), -1.0, dtype=torch.float64)
    slope, y = torch.func.grad_and_value(lambda t: draw(function, t).sum())(x)
    torch.testing.assert_close(-slope.sum(), y)
    value, tangent = torch.func.jvp(lambda t: draw(function, t), (x,), (x,))
    torch.testing.assert_close(value, tangent)


@FUNCTIONS
def test_modes_proxies_and_meta_tensors(function):
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    with FakeTensorMode():
        assert draw(function, torch.empty(2, 3)).shape == (2, 3)
    assert draw(function, torch.empty(2, 3, device="meta")).device.type == "meta"
    x = torch.full((50,), -1.0)
    assert make_fx(lambda t: draw(function, t))(x)(x).shape == x.shape
    traced = torch.fx.symbolic_trace(torch.nn.Sequential(ours.RReLU(), ours.Dropout()))
    targets = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert targets == [F.rrelu, F.dropout]


def test_subclasses_keep_their_type():
    class Tagged(Tensor):
        pass

    x = torch.randn(3).as_subclass(Tagged)
    assert type(F.rrelu(x, training=True)) is Tagged and type(F.dropout(x)) is Tagged


def compiled(kernel_name: str, dtype: str, arch: int, flat: bool):
    """What `triton/random.py` would have compiled for aligned tensors."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from nnkernels.triton import backend, hardware, random_kernels

    kernel = getattr(random_kernels, kernel_name)
    block = hardware.TILE_BYTES // (2 if kernel_name == "rrelu_backward" else 1) // (2 if dtype == "bf16" else 4)
    tile = (1, block) if flat else (block // backend._ROW_TILE, backend._ROW_TILE)
    constants = {"FLAT": flat, "EVEN": True, "BLOCK_ROWS": tile[0], "BLOCK_COLS": tile[1]} | (
        {"rows": 1} if flat else {}
    )
    kinds = {"seed_ptr": "*i64", "scale": "fp64", "offset": "fp64", "threshold": "i64"}
    signature, divisible = {}, {}
    for i, argument in enumerate(kernel.arg_names):
        pointer = f"*{dtype}" if argument.endswith("_ptr") else "i32"
        signature[argument] = "constexpr" if argument in constants else kinds.get(argument, pointer)
        if signature[argument][0] in "*i" and argument not in ("rows", "threshold"):
            divisible[i,] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=divisible)
    options = {"num_warps": hardware.NUM_WARPS}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options), block // 128


@pytest.mark.skipif(INTERPRETED or importlib.util.find_spec("triton") is None, reason="needs Triton's compiler")
@pytest.mark.parametrize("flat", [True, False], ids=["flat", "rows"])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("kernel", ["rrelu", "rrelu_backward", "dropout"])
def test_kernels_share_calls_and_load_16_bytes(kernel, dtype, flat, monkeypatch, tmp_path):
    """Two products a round for 8 elements of 16-bit slopes, else for 4; no exchange between threads; no spills."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for arch in (80, 90, 100) if flat and dtype == "bf16" else (90,):
        made, elements = compiled(kernel, dtype, arch, flat)
        ptx = made.asm["ptx"]
        assert "shared" not in ptx and "local" not in ptx
        for access in ("ld", "st"):
            assert len(re.findall(rf"{access}\.global\.v4\.b32", ptx)) >= 2, access
        assert not re.findall(r"(?:ld|st)\.global\.b(?:16|32)", ptx)
        calls = elements / (8 if dtype == "bf16" and kernel != "dropout" else 4)
        assert len(re.findall(r"mul\.wide\.u32|mul\.hi\.u32", ptx)) <= (2 * reference.ROUNDS - 1) * calls + 4
