"""rrelu, dropout and bias_act's dropout under torch.compile on a GPU, where their kernels are operators of ours.

Without a GPU the route is opened on the CPU: the kernels run interpreted, or the graph alone is looked at.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from draws import DEVICE, FUNCTIONS, LAYOUTS, LOWER, UPPER, draw, kernels, small_tiles  # noqa: F401
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from triton_tools import HAS_TRITON, INTERPRETED, compiles, executes, interpret

import nnkernels
import nnkernels.functional as F
from nnkernels.autograd import fused, fused_ops, random
from nnkernels.autograd.context import compiles_kernels

on_torch_alone = pytest.mark.skipif(INTERPRETED, reason="has nothing to do with Triton")
on_a_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (HAS_TRITON and torch.cuda.is_available()), reason="needs a CUDA device and Triton"),
]


@pytest.fixture
def route(monkeypatch):
    """The GPU's route, on any device."""
    if not torch.cuda.is_available():
        for module in (random, fused):
            monkeypatch.setattr(module, "compiles_kernels", lambda *tensors: torch.compiler.is_compiling())
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=64):
        yield


def minus_ones(*shape, **more):
    return torch.full(shape, -1.0, device=DEVICE, **more)


def check(compiled, x):
    """Draws anew, gives the layout that eager gives, and a gradient that goes with the value at -1."""
    x = x.detach().requires_grad_()
    y, z = compiled(x), compiled(x)
    assert not torch.equal(y, z)
    assert y.stride() == torch.empty_like(x).stride() and y.dtype == x.dtype
    # Of other strides than the value.
    grad = torch.ones(x.shape[::-1], dtype=x.dtype, device=x.device).permute(list(reversed(range(x.dim()))))
    assert torch.equal(torch.autograd.grad(y, x, grad)[0], -y)


@executes
@FUNCTIONS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_triton_operators_draw_what_the_kernels_draw(function, layout):
    from nnkernels.triton import random_ops

    x, seed = LAYOUTS[layout]().to(DEVICE), torch.tensor(2**61 + 12345, device=DEVICE)
    mine = kernels("triton")
    strides = torch.empty_like(x).stride()
    grad = torch.randn(x.shape[::-1], device=DEVICE).permute(list(reversed(range(x.dim()))))
    leaf = x.detach().requires_grad_()
    if function == "rrelu":
        y, expected = random_ops.rrelu(leaf, seed, LOWER, UPPER), mine.rrelu(x, seed, LOWER, UPPER)
        slope = mine.rrelu_backward(grad, x, seed, strides, LOWER, UPPER)
    else:
        y, expected = random_ops.dropout(leaf, seed, strides, 0.3), mine.dropout(x, seed, 0.3)
        slope = mine.dropout(grad, seed, 0.3, strides)
    assert torch.equal(y, expected) and y.stride() == expected.stride()
    assert torch.equal(torch.autograd.grad(y, leaf, grad)[0], slope)


@executes
@FUNCTIONS
def test_triton_operators_are_right_to_second_order(function):
    from nnkernels.triton import random_ops

    x = torch.randn(3, 5, dtype=torch.float64, device=DEVICE, requires_grad=True)
    seed = torch.tensor(7, device=DEVICE)
    call = {
        "rrelu": lambda x: random_ops.rrelu(x, seed, LOWER, UPPER),
        "dropout": lambda x: random_ops.dropout(x, seed, (1, 3), 0.3),
    }[function]
    assert torch.autograd.gradcheck(call, (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(call, (x,), fast_mode=True)
    (slope,) = torch.autograd.grad(call(x).sum(), x, create_graph=True)
    assert not slope.requires_grad or not torch.autograd.grad(slope.sum(), x, allow_unused=True)[0].any()


@executes
@FUNCTIONS
@pytest.mark.parametrize("dynamic", [False, True])
def test_triton_kernels_serve_a_compiled_call(function, dynamic, route):
    engine = "eager" if INTERPRETED else "inductor"
    compiled = torch.compile(lambda x, p: draw(function, x, p), fullgraph=True, dynamic=dynamic, backend=engine)
    for x in (minus_ones(30, 20), minus_ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)):
        for p in (0.3, 0.5, 0.75):
            check(lambda x, p=p: compiled(x, p), x)
    check(lambda x: compiled(x, 0.5), minus_ones(7, 40)[:, ::2])


@compiles
@FUNCTIONS
def test_the_compiled_graph_calls_the_kernel_and_keeps_no_more(function, route):
    seen, kept = [], []

    def stop(graph, inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        kept.extend(graph.graph.output_node().args[0])
        raise RuntimeError("no further")

    engine = aot_autograd(fw_compiler=stop, partition_fn=min_cut_rematerialization_partition)
    compiled = torch.compile(lambda x: draw(function, x), fullgraph=True, backend=engine)
    with pytest.raises(Exception, match="no further"):
        compiled(minus_ones(30, 20).requires_grad_())
    assert any("triton_kernel_wrapper" in target for target in seen)
    assert any("randint" in target for target in seen) and not any("rand_like" in target for target in seen)
    if torch.cuda.is_available():  # else torch cannot look into the kernel, and takes it to write all that it is given
        assert len(kept) == (3 if function == "rrelu" else 2)  # the value, the seed and rrelu's input


@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")
def test_the_compiler_sees_when_kernels_may_serve():
    """Without tensors, so that no device says otherwise; the tests above open the route on the CPU by hand."""

    def answer(x):
        return x + 1 if compiles_kernels() else x

    torch._dynamo.reset()
    compiled = torch.compile(answer, fullgraph=True, backend="eager")
    zero = torch.zeros(2)
    assert compiled(zero).all() and not answer(zero).any()
    for transformed in (torch.func.vmap(answer), torch.func.grad(lambda x: (x * answer(x)).sum())):
        assert not torch.compile(transformed, fullgraph=True, backend="eager")(zero).any()
    with nnkernels.backend("reference"):
        assert not compiled(zero).any()


@on_torch_alone
@FUNCTIONS
@pytest.mark.parametrize("why", ["cpu", "export", "reference", "vmap", "float64"])
def test_torchs_random_functions_serve_elsewhere(function, why, route, monkeypatch):
    targets = []

    def note(graph, inputs):
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    def call(x):
        return torch.func.vmap(lambda row: draw(function, row), randomness="different")(x) if why == "vmap" else (
            draw(function, x)
        )  # fmt: skip

    if why != "float64":
        monkeypatch.setattr(random, "compiles_kernels", compiles_kernels)
    x = torch.full((3, 4), -1.0, device="cpu" if why == "cpu" else DEVICE)
    x = x.double() if why == "float64" else x
    if why == "export":
        program = torch.export.export(torch.nn.Sequential(nnkernels.nn.RReLU(), nnkernels.nn.Dropout()), (x,))
        targets.extend(str(node.target) for node in program.graph.nodes)
    else:
        with nnkernels.backend("reference" if why == "reference" else "auto"):
            torch.compile(call, fullgraph=True, backend=aot_autograd(fw_compiler=note))(x)
    assert targets and not any("drawn" in target or "triton" in target for target in targets)


@pytest.mark.parametrize("activation", ["identity", "silu"])
@pytest.mark.parametrize("dim", [1, 2, None])
@on_torch_alone
def test_bias_act_is_right_to_second_order(activation, dim):
    x, residual = (torch.randn(2, 3, 4, dtype=torch.float64, device=DEVICE, requires_grad=True) for _ in range(2))
    given = (x, residual)
    if dim is not None:
        given = (*given, torch.randn(x.shape[dim], dtype=torch.float64, device=DEVICE, requires_grad=True))
    seed = torch.tensor(5, device=DEVICE)

    def call(x, residual, bias=None):
        return fused_ops.bias_act(x, bias, residual, seed, activation, 0.0, 0.0, dim, 0.3)

    assert torch.autograd.gradcheck(call, given) and torch.autograd.gradgradcheck(call, given)
    bias = given[2] if dim is not None else None
    torch.library.opcheck(fused_ops.bias_act, (x, bias, residual, seed, activation, 0.0, 0.0, dim, 0.3))


@on_torch_alone
@pytest.mark.parametrize("dynamic", [False, True])
def test_bias_act_compiled(dynamic, route):
    def call(x, bias, residual):
        return F.bias_act(x, bias, "identity", dropout_p=0.3, residual=residual)

    compiled = torch.compile(call, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for x in (minus_ones(20, 30), minus_ones(30, 20).t(), minus_ones(7, 30)[:, ::2]):
        bias = torch.zeros(x.shape[1], device=DEVICE, requires_grad=True)
        residual = torch.zeros_like(x)
        check(lambda x, bias=bias, residual=residual: compiled(x, bias, residual), x)
        y = compiled(x, bias, residual)
        assert torch.allclose(torch.autograd.grad(y.sum(), bias)[0], -y.sum(0))
        assert set(y.unique().tolist()) == {0.0, torch.tensor(-1 / 0.7).item()}


@on_torch_alone
def test_bias_act_without_dropout_stays_inductors(route):
    targets = []

    def note(graph, inputs):
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    def call(x):
        return F.bias_act(x, None, "silu", dropout_p=0.5, training=False)

    torch.compile(call, fullgraph=True, backend=aot_autograd(fw_compiler=note))(minus_ones(3, 4))
    assert targets and not any("drawn" in target for target in targets)


CALLS = {
    "rrelu": lambda x: draw("rrelu", x),
    "dropout": lambda x: draw("dropout", x),
    "bias_act": lambda x: F.bias_act(x, None, "identity", dropout_p=0.3),
}


class TestOnAGPU:
    pytestmark = on_a_gpu

    @pytest.mark.parametrize("name", CALLS)
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=["bfloat16", "float64"])
    def test_inductor(self, name, dtype, route):
        compiled = torch.compile(lambda x: CALLS[name]((x * 1).t()).t(), fullgraph=True)
        check(compiled, minus_ones(64, 200, dtype=dtype))
        assert torch.compile(CALLS[name], fullgraph=True)(minus_ones(0, 3)).shape == (0, 3)

    @pytest.mark.parametrize("name", CALLS)
    def test_each_replay_draws_anew(self, name, route):
        compiled = torch.compile(CALLS[name], fullgraph=True, mode="reduce-overhead")
        x, seen = minus_ones(256, 1024).requires_grad_(), []
        for _ in range(5):
            torch.compiler.cudagraph_mark_step_begin()
            y = compiled(x)
            seen.append(y.detach().clone())
            (slope,) = torch.autograd.grad(y.sum(), x)
            assert torch.equal(slope, -seen[-1])
        assert not any(torch.equal(one, other) for i, one in enumerate(seen) for other in seen[:i])

    @pytest.mark.parametrize("name", CALLS)
    def test_the_seed_governs(self, name, route):
        compiled, found = torch.compile(CALLS[name], fullgraph=True), []
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            found.append(compiled(minus_ones(64, 64)))
        assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@compiles
def test_under_the_interpreter():
    interpret(str(Path(__file__)))
