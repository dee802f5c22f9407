"""Group normalisation + activation + residual: as the definition in float64 says, and as torch's module behaves."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from norms import leaves, off, truth, widened, worst
from torch.autograd.graph import saved_tensors_hooks
from triton_tools import HAS_TRITON, INTERPRETED, NVIDIA, compile_ahead, compiles, interpret

import nnkernels.functional as F
from nnkernels import nn

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHAPES = [
    ((3, 12), 3, "contiguous"),
    ((2, 8, 5, 6), 4, "contiguous"),
    ((2, 8, 5, 6), 2, "last"),
    ((3, 4, 7), 4, "contiguous"),
    ((1, 6, 4, 8), 1, "contiguous"),
    ((2, 32, 4, 4), 2, "last"),
    ((1, 4, 40, 24), 2, "contiguous"),
]


@compiles
def test_under_the_interpreter():
    interpret(__file__, only="triton and not 8-fp32 and not 64-bf16")


@pytest.fixture(autouse=True)
def several_tiles_for_each_program(monkeypatch):
    """Also of small tensors."""
    if HAS_TRITON:
        from nnkernels.triton import batch_normalization

        for enough in ("_ENOUGH_PROGRAMS", "_SUM_PROGRAMS"):
            monkeypatch.setattr(batch_normalization, enough, 4)


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize(("shape", "groups", "layout"), SHAPES, ids=lambda one: str(one).replace(", ", "x"))
def test_value_and_gradients_are_the_definition(shape, groups, layout, kind, chosen):
    if INTERPRETED and kind != "bf16":
        pytest.skip("slow to interpret; float32 has a test of its own")
    inputs = leaves(shape, chosen, DTYPES[kind], layout)
    x, residual, weight, bias = inputs
    grad = torch.cos(torch.arange(x.numel(), dtype=torch.float64)).view(shape).to(chosen, DTYPES[kind])
    wide = widened(inputs)
    y = F.group_norm_act(x, groups, weight, bias, activation="mish", residual=residual)
    assert y.stride() == x.stride()
    assert worst(y, truth(*wide, "mish", groups), inputs, wide, grad, groups) < (64 if kind == "fp64" else 8)


@pytest.mark.parametrize("layout", ["contiguous", "last"])
def test_a_mean_far_greater_than_the_spread(layout, chosen):
    inputs = leaves((2, 6, 12, 16), chosen, torch.float32, layout, 1e4)
    wide = widened(inputs)
    y = F.group_norm_act(inputs[0], 3, *inputs[2:], activation="gelu", residual=inputs[1])
    grad = torch.cos(torch.arange(y.numel())).view(y.shape).to(chosen)
    assert worst(y, truth(*wide, "gelu", 3), inputs, wide, grad, 3) < 16


@pytest.mark.skipif(not HAS_TRITON, reason="sets what Triton's programs hold")
@pytest.mark.parametrize("kind", ["fp32", "bf16"])
@pytest.mark.parametrize("least", [8, 64])
@pytest.mark.parametrize("shape, groups, layout", [
    ((2, 8, 6, 40), 4, "contiguous"), ((3, 20, 4, 16), 4, "contiguous"), ((2, 24, 9, 5), 3, "last"),
    ((3, 20, 6, 8), 10, "last"), ((2, 14, 30), 14, "contiguous"),
], ids=lambda one: str(one).replace(", ", "x"))  # fmt: skip
def test_groups_that_are_no_single_tile(shape, groups, layout, least, kind, chosen, monkeypatch):
    """Of several lines and tiles; several side by side, the last of them fewer."""
    from nnkernels.triton import group_normalization

    for name, value in {"_HELD_ELEMENTS": 0, "_TILE_BYTES": 64, "_COLUMNS_TILE_BYTES": 256}.items():
        monkeypatch.setattr(group_normalization, name, value)
    monkeypatch.setattr(group_normalization, "_SEGMENT_BYTES", least)
    monkeypatch.setattr(group_normalization, "_MOST_ADDED", 4)
    inputs = leaves(shape, chosen, DTYPES[kind], layout, 30.0)
    wide = widened(inputs)
    y = F.group_norm_act(inputs[0], groups, *inputs[2:], activation="silu", residual=inputs[1])
    grad = torch.cos(torch.arange(y.numel())).view(shape).to(chosen, DTYPES[kind])
    assert worst(y, truth(*wide, "silu", groups), inputs, wide, grad, groups) < 16


@pytest.mark.skipif(not HAS_TRITON, reason="sets what Triton's programs hold")
@pytest.mark.parametrize("layout", ["contiguous", "last"])
def test_groups_that_several_programs_share(layout, chosen, monkeypatch):
    from nnkernels.triton import group_normalization

    monkeypatch.setattr(group_normalization, "_MOST_IN_CACHE", 0)
    inputs = leaves((2, 12, 10, 12), chosen, torch.float32, layout, 1e3)
    wide = widened(inputs)
    y = F.group_norm_act(inputs[0], 4, *inputs[2:], activation="silu", residual=inputs[1])
    grad = torch.cos(torch.arange(y.numel())).view(y.shape).to(chosen)
    assert worst(y, truth(*wide, "silu", 4), inputs, wide, grad, 4) < 16


@pytest.mark.parametrize("layout", ["contiguous", "last"])
def test_gradients_of_16_bit_parameters_are_theirs(layout, chosen):
    x, _, weight, bias = leaves((3, 6, 4, 8), chosen, torch.bfloat16, layout)
    weight, bias = (tensor.detach().bfloat16().requires_grad_() for tensor in (weight, bias))
    wide = widened((x, weight, bias))
    y, exact = (F.group_norm_act(one[0], 3, *one[1:], activation="silu") for one in ((x, weight, bias), wide))
    grad = torch.cos(torch.arange(y.numel())).view(y.shape).to(chosen)
    found = torch.autograd.grad(y, (weight, bias), grad.bfloat16())
    for got, want in zip(found, torch.autograd.grad(exact, wide[1:], grad.bfloat16().double()), strict=True):
        assert got.dtype == torch.bfloat16 and off(got, want, grad.norm().item()) < 2


@settings(max_examples=40, deadline=None)
@given(
    samples=st.integers(1, 3), groups=st.integers(1, 3), group=st.integers(1, 3),
    behind=st.lists(st.integers(1, 4), max_size=3), layout=st.sampled_from(["dense", "permuted", "sliced"]),
    data=st.data(),
)  # fmt: skip
def test_any_layout(samples, groups, group, behind, layout, data):
    shape = [samples, groups * group, *behind]
    if group * torch.Size(behind).numel() == 1:
        behind, shape = [2], [samples, groups * group, 2]
    x = torch.randn([*shape, 2], dtype=torch.float64)[..., 0] if layout == "sliced" else torch.randn(shape).double()
    if layout == "permuted":
        order = data.draw(st.permutations(range(len(shape))))
        x = torch.randn([shape[d] for d in order]).double().permute([order.index(d) for d in range(len(shape))])
    weight, bias = torch.randn(2, shape[1]).double()
    inputs = (x.requires_grad_(), None, weight.requires_grad_(), bias.requires_grad_())
    wide = widened(inputs)
    y = F.group_norm_act(x, groups, weight, bias, activation="silu")
    grad = torch.randn(shape[::-1]).double().permute(list(reversed(range(len(shape)))))
    assert y.stride() == torch.empty_like(x).stride()
    assert (
        worst(y, truth(*wide, "silu", groups), inputs, wide, grad, groups) < 1024
    )  # values may be close to each other


def test_gradients_of_every_order():
    inputs = leaves((2, 4, 3), "cpu", torch.float64)

    def f(x, residual, weight, bias):
        return F.group_norm_act(x, 2, weight, bias, activation="silu", residual=residual)

    assert torch.autograd.gradcheck(f, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, inputs)


@pytest.mark.parametrize("name", ["silu", "identity"])
def test_what_is_kept(name):
    kept = []
    x, residual, weight, bias = leaves((4, 6, 5, 5), "cpu", torch.float32)
    with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        F.group_norm_act(x, 2, weight, bias, activation=name, residual=residual)
    big = [tensor.data_ptr() for tensor in kept if tensor.numel() == x.numel()]
    assert big == [x.data_ptr()] + ([residual.data_ptr()] if name == "silu" else [])
    assert sum(tensor.numel() for tensor in kept if tensor.numel() < x.numel()) == 2 * 6 + 4 * 4 * 2


def test_compilers_transforms_and_empty_batches():
    x, residual, weight, bias = leaves((2, 6, 5), "cpu", torch.float32)

    def f(x, residual, weight, bias):
        return F.group_norm_act(x, 3, weight, bias, activation="gelu", residual=residual)

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x, residual, weight, bias), f(x, residual, weight, bias), rtol=1e-5, atol=1e-5)
    both = torch.func.vmap(f, in_dims=(0, 0, None, None))(
        torch.stack([x, -x]), torch.stack([residual, x]), weight, bias
    )
    assert torch.allclose(both[1], f(-x, x, weight, bias), rtol=1e-5, atol=1e-5)
    assert f(x[:0], residual[:0], weight, bias).shape == (0, 6, 5)


@pytest.mark.parametrize(
    ("error", "says", "arguments"),
    [
        (ValueError, "4 groups.*6 channels.*1, 2, 3, 6", {"num_groups": 4}),
        (ValueError, "0 groups", {"num_groups": 0}),
        (ValueError, "Expected more than 1 value per channel", {"input": torch.zeros(1, 6, 1), "num_groups": 6}),
        (ValueError, r"\(6, 2\).*\(2, 6, 5\)", {"residual": torch.zeros(6, 2)}),
        (ValueError, r"bias.*\(3,\).*\(6,\)", {"bias": torch.zeros(3)}),
        (ValueError, "nosuch", {"activation": "nosuch"}),
        (TypeError, "alpha", {"activation": "relu", "alpha": 1.0}),
    ],
)
def test_bad_input_is_named(error, says, arguments):
    with pytest.raises(error, match=says):
        F.group_norm_act(**{"input": torch.zeros(2, 6, 5), "num_groups": 3, **arguments})


def test_the_module_is_torchs():
    x = torch.randn(2, 6, 4, 4)
    ours = nn.GroupNormAct(3, 6, activation="leaky_relu", negative_slope=0.2)
    theirs = torch.nn.GroupNorm(3, 6)
    assert isinstance(ours, torch.nn.GroupNorm) and ours.state_dict().keys() == theirs.state_dict().keys()
    assert repr(ours) == f"{repr(theirs).replace('GroupNorm', 'GroupNormAct')[:-1]}, 'leaky_relu', negative_slope=0.2)"
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), ours):
        assert torch.allclose(other(x), torch.nn.functional.leaky_relu(theirs(x), 0.2), rtol=1e-5, atol=1e-5)
    assert list(nn.GroupNormAct(3, 6, bias=False).state_dict()) == ["weight"]
    assert nn.GroupNormAct(3, 6, affine=False)(x, x).shape == x.shape
    with pytest.raises(ValueError, match="divisible"):
        nn.GroupNormAct(4, 6)


@compiles
@pytest.mark.parametrize("arch", NVIDIA)
@pytest.mark.parametrize("kind", ["planes", "columns", "held", "groups"])
@pytest.mark.parametrize("name", ["forward", "backward"])
def test_kernels_compile(name, kind, arch, fresh_cache):
    from nnkernels.contracts.batch_normalization import Frame
    from nnkernels.triton import group_normalization
    from nnkernels.triton import group_normalization_kernels as kernels
    from nnkernels.triton.activations import FORMULAS

    frames = {"planes": (16, 1, 320, 4096, 10), "columns": (16, 1024, 320, 1, 10), "held": (4, 256, 1280, 1, 40)}
    frames["groups"] = (2, 16, 32, 1, 16)  # several in a tile that registers hold
    unit = group_normalization.unit_of(Frame(*frames[kind]), torch.empty(0, dtype=torch.bfloat16))
    names = (
        "COLS",
        "ONE",
        "HELD",
        "WHOLE",
        "ALIGN",
        "TILES",
        "BLOCK_ROWS",
        "BLOCK_COLS",
        "BLOCK_GROUPS",
        "BLOCK_GROUP",
    )
    formula = FORMULAS["silu"]
    constants = dict(zip(names, unit[5:], strict=True)) | {"VALUE": formula.value, "D1": formula.d1, "MASKS": False}
    constants |= {
        "residual_ptr": None,
        "grad_residual_ptr": None,
        "STAGES": 3,
        "BLOCK_SAMPLES": 16,
        "BLOCK_CHANNELS": 16,
    }
    wide = dict.fromkeys(("weight_ptr", "bias_ptr", "statistics_ptr", "sums_ptr", "columns_ptr", "totals_ptr"), "*fp32")
    wide |= dict.fromkeys(("mean_ptr", "var_ptr", "parameters_ptr"), "*fp32") | {"counts_ptr": "*i32"}
    uneven = ("group", "lines", "width") if kind != "planes" else ("group", "lines", "height")
    constants |= {"lines": 1} if unit.lines == 1 else {}
    compiled = compile_ahead(getattr(kernels, name), arch, "bf16", constants, unit.num_warps, wide, uneven)
    assert re.search(r"(ld\.global\S*\.v4\.b32|cp\.async)", compiled.asm["ptx"])
    assert re.search(r"st\.global\S*\.v4\.b32", compiled.asm["ptx"])
