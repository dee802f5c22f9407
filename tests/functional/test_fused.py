"""bias + activation + dropout + residual in one pass: as the composition says, and reproducible."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from triton_tools import NVIDIA, compile_ahead, compiles, executes, interpret, spills

import nnkernels
import nnkernels.functional as F
from nnkernels import accuracy, dispatch, nn
from nnkernels.contracts.fused import ALONG_COLS
from nnkernels.registry import Activation, catalogue

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def device(chosen):
    return chosen


def composition(x, bias, activation, residual=None):
    """In float64, by torch operations."""
    y = x.double() if bias is None else x.double() + bias.double()
    if activation != "identity":
        y = getattr(F, activation)(y)
    return y if residual is None else y + residual.double()


def leaves(shape, bias_shape, device, dtype=torch.float64, residual=True):
    generator = torch.Generator().manual_seed(sum(shape) + 1)

    def one(shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype).requires_grad_()

    return one(shape), one(bias_shape), one(shape) if residual else None


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize(
    ("shape", "bias_shape"),
    [
        ((5, 7), (7,)),
        ((2, 3, 4, 5), (3, 1, 1)),
        ((3, 520), (520,)),
        ((130, 24), (24,)),
        ((4, 6, 9), (4, 1, 1)),
        ((3,), (3,)),
    ],
    ids=str,
)
def test_value_and_gradients_are_the_composition(shape, bias_shape, dtype, device):
    x, bias, residual = leaves(shape, bias_shape, device, dtype)
    y = F.bias_act(x, bias, "silu", residual=residual)
    exact = composition(x, bias, "silu", residual)
    grad = torch.randn(shape, dtype=torch.float64).to(device, dtype)
    size = exact.detach().abs() + residual.detach().double().abs()
    assert ((y.detach() - exact).abs() <= 4 * torch.finfo(dtype).eps * size).all()
    mine = torch.autograd.grad(y, (x, bias, residual), grad)
    truth = torch.autograd.grad(exact, (x, bias, residual), grad.double())
    for got, want in zip(mine, truth, strict=True):
        size = want.double().abs() + grad.double().square().sum().sqrt()
        assert got.dtype == dtype
        assert ((got - want).abs() <= 4 * torch.finfo(dtype).eps * size).all()


@pytest.mark.parametrize("name", [*(row.name for row in catalogue(Activation)), "identity"])
def test_every_activation(name, device):
    constants = {}
    if name == "threshold":
        constants = {"threshold": 0.5, "value": 0.25}
    x, bias, _ = leaves((6, 10), (10,), device)
    y = F.bias_act(x, bias, name, **constants)
    z = (x + bias).detach().requires_grad_()
    exact = z * 1 if name == "identity" else getattr(F, name)(z, **constants)
    assert torch.allclose(y, exact, rtol=1e-13, atol=1e-15)
    (slope,) = torch.autograd.grad(exact.sum(), z)
    for_x, for_bias = torch.autograd.grad(y.sum(), (x, bias))
    assert torch.allclose(for_x, slope, rtol=1e-12, atol=1e-14)
    assert torch.allclose(for_bias, slope.sum(0), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("shape", "bias_shape"), [((64, 96), (96,)), ((65, 51), (51,)), ((4, 8, 11, 13), (8, 1, 1))], ids=str
)
def test_dropout_drops_as_often_as_it_says_and_backward_the_same_elements(shape, bias_shape, dtype, device):
    # Positive sums, so that only what was dropped is 0.
    made = leaves(shape, bias_shape, device, dtype)[:2]
    x, bias = ((tensor.detach().abs() + 0.5).requires_grad_() for tensor in made)
    torch.manual_seed(3)
    y = F.bias_act(x, bias, "identity", dropout_p=0.25)
    kept = y != 0
    share = kept.double().mean().item()
    assert abs(share - 0.75) < 5 * (0.25 * 0.75 / x.numel()) ** 0.5
    exact = (x.double() + bias.double()) / 0.75
    assert ((y - exact)[kept].abs() <= 2 * torch.finfo(dtype).eps * exact[kept].abs()).all()
    for_x, for_bias = torch.autograd.grad(y, (x, bias), torch.ones_like(y))
    assert torch.equal(for_x != 0, kept)
    others = [d for d in range(x.dim()) if d != (1 if x.dim() == 4 else x.dim() - 1)]
    counted = kept.double().sum(others)
    assert torch.allclose(
        for_bias.double().flatten() * 0.75, counted, rtol=16 * torch.finfo(torch.float32).eps + torch.finfo(dtype).eps
    )
    torch.manual_seed(3)
    assert torch.equal(F.bias_act(x, bias, "identity", dropout_p=0.25), y)
    assert not torch.equal(F.bias_act(x, bias, "identity", dropout_p=0.25), y)
    assert torch.equal(F.bias_act(x, bias, "silu", dropout_p=0.25, training=False), F.bias_act(x, bias, "silu"))


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    dim=st.integers(0, 3),
    layout=st.sampled_from(["dense", "permuted", "sliced"]),
    data=st.data(),
)
def test_any_layout(shape, dim, layout, data):
    dim %= len(shape)
    x = torch.randn([*shape, 2], dtype=torch.float64)[..., 0] if layout == "sliced" else torch.randn(shape).double()
    if layout == "permuted":
        order = data.draw(st.permutations(range(len(shape))))
        x = torch.randn([shape[d] for d in order]).double().permute([order.index(d) for d in range(len(shape))])
    x.requires_grad_()
    bias = torch.randn([shape[dim], *[1] * (len(shape) - 1 - dim)]).double().requires_grad_()
    y = F.bias_act(x, bias, "tanh")
    exact = torch.tanh(x + bias)
    assert torch.allclose(y, exact, rtol=1e-13, atol=1e-15)
    strides = zip(shape, y.stride(), torch.empty_like(x).stride(), strict=True)
    assert all(mine == torchs for size, mine, torchs in strides if size > 1)
    grad = torch.randn(shape[::-1]).double().permute(list(reversed(range(len(shape)))))
    for mine, other in zip(
        torch.autograd.grad(y, (x, bias), grad), torch.autograd.grad(exact, (x, bias), grad), strict=True
    ):
        assert torch.allclose(mine, other, rtol=1e-12, atol=1e-12) and mine.shape == other.shape


def test_gradients_of_every_order():
    x, bias, residual = leaves((3, 4, 5), (4, 1), "cpu")

    def dropped(x, bias, residual):
        torch.manual_seed(0)
        return F.bias_act(x, bias, "mish", dropout_p=0.4, residual=residual)

    for function in (lambda *t: F.bias_act(t[0], t[1], "silu", residual=t[2]), dropped):
        assert torch.autograd.gradcheck(function, (x, bias, residual))
        assert torch.autograd.gradgradcheck(function, (x, bias, residual))

    def identity(x, bias):
        torch.manual_seed(0)
        return F.bias_act(x, bias, dropout_p=0.4)

    assert torch.autograd.gradcheck(identity, (x, bias)) and torch.autograd.gradgradcheck(identity, (x, bias))


def test_the_same_for_any_number_of_threads():
    x, bias, _ = leaves((1000, 300), (300,), "cpu", torch.float32, residual=False)
    grad = torch.randn_like(x)
    found = []
    threads = torch.get_num_threads()
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        torch.manual_seed(0)
        y = F.bias_act(x, bias, "gelu", dropout_p=0.1)
        found.append((y, *torch.autograd.grad(y, (x, bias), grad)))
    torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_what_is_kept():
    kept = []
    x, bias, residual = leaves((8, 16), (16,), "cpu", torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        F.bias_act(x, bias, "gelu", dropout_p=0.5, residual=residual)
    assert sorted(tensor.numel() for tensor in kept) == [1, 16, 128]
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        F.bias_act(x, bias, residual=residual)
    assert [tensor.numel() for tensor in kept] == [16]


def test_compilers_and_transforms():
    x, bias, residual = leaves((4, 6), (6,), DEVICE, torch.float32)

    def f(x, bias, residual):
        return F.bias_act(x, bias, "gelu", residual=residual)

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x, bias, residual), f(x, bias, residual), rtol=1e-5, atol=1e-6)
    batch = torch.func.vmap(f, in_dims=(0, None, 0))(torch.stack([x, -x]), bias, torch.stack([residual, residual]))
    assert torch.allclose(batch[1], f(-x, bias, residual), rtol=1e-5, atol=1e-6)


def test_types_may_differ_and_the_residual_broadcasts():
    x = torch.randn(4, 6, dtype=torch.bfloat16, requires_grad=True)
    bias = torch.randn(6, requires_grad=True)
    residual = torch.randn(6, dtype=torch.float32, requires_grad=True)
    y = F.bias_act(x, bias, "relu", residual=residual)
    assert y.dtype == torch.bfloat16
    found = torch.autograd.grad(y.float().sum(), (x, bias, residual))
    assert [g.dtype for g in found] == [torch.bfloat16, torch.float32, torch.float32]
    assert torch.equal(found[2], torch.full((6,), 4.0))
    assert torch.equal(F.bias_act(x, torch.ones(1), "relu"), F.bias_act(x, torch.ones(6), "relu"))


@pytest.mark.parametrize(
    ("error", "says", "arguments"),
    [
        (ValueError, r"\(5,\).*\(4, 6\)", {"bias": torch.zeros(5)}),
        (ValueError, "several", {"bias": torch.zeros(4, 6)}),
        (ValueError, r"\(3, 6\).*\(4, 6\)", {"residual": torch.zeros(3, 6)}),
        (ValueError, "1.0", {"dropout_p": 1.0}),
        (ValueError, "-0.5", {"dropout_p": -0.5}),
        (ValueError, "nosuch", {"activation": "nosuch"}),
        (TypeError, "alpha", {"activation": "relu", "alpha": 1.0}),
        (NotImplementedError, "int64", {"bias": torch.zeros(6, dtype=torch.int64)}),
    ],
)
def test_bad_input_is_named(error, says, arguments):
    with pytest.raises(error, match=says):
        F.bias_act(torch.zeros(4, 6), **arguments)


def test_the_module():
    module = nn.BiasAct(6, "leaky_relu", dropout_p=0.1, dim=1, negative_slope=0.2)
    assert repr(module) == "BiasAct(6, 'leaky_relu', dropout_p=0.1, dim=1, negative_slope=0.2)"
    x = torch.randn(2, 6, 3, 3).to(memory_format=torch.channels_last)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), module):
        other.eval()
        assert torch.allclose(other(x), torch.nn.functional.leaky_relu(x, 0.2))
        assert other(x).is_contiguous(memory_format=torch.channels_last)
    assert list(module.state_dict()) == ["bias"]
    assert nn.BiasAct(3, bias=False)(torch.ones(2, 3)).sum() == 6


def test_accuracy_in_16_bits(device):
    x = accuracy.inputs(torch.bfloat16).to(device).view(256, 256)
    y, truth = F.bias_act(x, torch.zeros(256, device=device), "gelu"), F.gelu(x.double())
    off = accuracy.errors(y, truth)
    if device == "cpu" and dispatch.chosen() == "triton":  # the interpreter rounds subnormal numbers in its own way
        off = off[truth.abs() > 1e-37]
    assert off.max() <= 1


@executes
@pytest.mark.parametrize(
    ("shape", "dtype", "name"),
    [
        ((70, 64), torch.bfloat16, "silu"),
        ((65, 51), torch.bfloat16, "silu"),
        ((65, 51), torch.float32, "identity"),
        ((5, 1040), torch.bfloat16, "identity"),
    ],
    ids=str,
)
def test_programs_of_a_wave_share_the_rows_of_a_strip(shape, dtype, name, monkeypatch):
    from nnkernels.triton import fused, hardware

    monkeypatch.setattr(fused, "_DRAWING_WAVE", 3)
    monkeypatch.setattr(hardware, "multiprocessors", lambda device: 1)
    x, bias, _ = leaves(shape, shape[-1:], DEVICE, dtype, residual=False)
    grad = torch.randn(shape, dtype=torch.float64).to(DEVICE, dtype)
    found = []
    for backend in ("triton", "reference"):
        with nnkernels.backend(backend):
            torch.manual_seed(3)
            found.append(torch.autograd.grad(F.bias_act(x, bias, name, dropout_p=0.25), (x, bias), grad))
    eps = torch.finfo(dtype).eps
    assert torch.equal(found[0][0] == 0, found[1][0] == 0)
    for mine, other in zip(*found, strict=True):
        assert torch.allclose(mine, other, rtol=4 * eps, atol=4 * eps * (1 if mine.dim() > 1 else shape[0] ** 0.5))


@compiles
def test_under_the_interpreter():
    interpret(__file__, only="wave or (value_and_gradients and triton and bfloat16)")


@compiles
@pytest.mark.parametrize("arch", NVIDIA)
def test_compiles_without_spilling(arch, fresh_cache, tmp_path):
    from nnkernels.triton import fused
    from nnkernels.triton.activations import FORMULAS

    formula, types = FORMULAS["gelu"], {"seed_ptr": "*i64", "partial_ptr": "*fp32"}
    constants = {
        "VALUE": formula.value, "D1": formula.d1, "MASKS": False, "HAS_X": True, "ALONG": ALONG_COLS, "SUMS": False,
        "DROPS": True, "ADDS": True, "EVEN": True, "STEPS": 1, "BLOCK_ROWS": 1, "BLOCK_COLS": 1024,
    }  # fmt: skip
    cases = ((fused._forward, 2, {}), (fused._backward, 2, {"value_ptr": None}), (fused._backward_down, 4, {}))
    for kernel, loads, missing in (*cases, (fused._backward_down, 4, {"value_ptr": None})):
        compiled = compile_ahead(kernel, arch, "bf16", constants | missing, fused._NUM_WARPS, types)
        assert spills(compiled, tmp_path) == 0
        assert len(re.findall(r"ld\.global\S*\.v4\.b32", compiled.asm["ptx"])) >= loads


@pytest.mark.parametrize("activation", ["identity", "silu"])
def test_gradients_of_other_strides_find_the_same_mask(activation, device):
    x = torch.ones(5, 7, dtype=torch.float64, device=device, requires_grad=True)
    y = F.bias_act(x, None, activation, dropout_p=0.5)
    grad = torch.ones(7, 5, dtype=torch.float64, device=device).t()
    for create_graph in (False, True):
        (slope,) = torch.autograd.grad(y, x, grad, retain_graph=True, create_graph=create_graph)
        assert torch.equal(slope != 0, y != 0)
