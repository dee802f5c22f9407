"""Batch normalisation + activation + residual: as the definition in float64 says, and as torch's modules behave."""

from __future__ import annotations

import copy
import doctest
import importlib
import pickle
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from launching import DEVICES, join, together
from norms import leaves, off, truth, widened, worst
from torch.autograd.graph import saved_tensors_hooks
from triton_tools import HAS_TRITON, INTERPRETED, NVIDIA, compile_ahead, compiles, interpret

import nnkernels.functional as F
from nnkernels import nn
from nnkernels.registry import Activation, catalogue

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHAPES = [
    ((6, 4), "contiguous"),
    ((5, 6, 7), "contiguous"),
    ((3, 8, 5, 6), "contiguous"),
    ((3, 8, 5, 6), "last"),
    ((2, 16, 4, 8), "last"),
    ((2, 2, 40, 16), "contiguous"),
    ((2, 5, 2, 3, 4), "last"),
    ((90, 24), "contiguous"),
]


@compiles
def test_under_the_interpreter():
    interpret(__file__)


@pytest.fixture(autouse=True)
def several_tiles_for_each_program(monkeypatch):
    """Also of small tensors."""
    if HAS_TRITON:
        from nnkernels.triton import batch_normalization

        for enough in ("_ENOUGH_PROGRAMS", "_SUM_PROGRAMS"):
            monkeypatch.setattr(batch_normalization, enough, 4)


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize(
    ("shape", "layout"), SHAPES, ids=lambda one: one if isinstance(one, str) else "x".join(map(str, one))
)
def test_value_and_gradients_are_the_definition(shape, layout, kind, chosen):
    if INTERPRETED and kind != "bf16":
        pytest.skip("slow to interpret; float32 has a test of its own")
    inputs = leaves(shape, chosen, DTYPES[kind], layout)
    x, residual, weight, bias = inputs
    grad = torch.cos(torch.arange(x.numel(), dtype=torch.float64)).view(shape).to(chosen, DTYPES[kind])
    wide = widened(inputs)
    y = F.batch_norm_act(x, None, None, weight, bias, True, activation="silu", residual=residual)
    assert y.stride() == x.stride()
    assert worst(y, truth(*wide, "silu"), inputs, wide, grad) < (32 if kind == "fp64" else 8)
    mean, var = torch.linspace(-1, 1, shape[1]), torch.linspace(0.5, 2, shape[1])
    fixed = mean.to(chosen), var.to(chosen)
    y = F.batch_norm_act(x, *fixed, weight, bias, activation="tanh")
    inputs, wide = (x, None, weight, bias), (wide[0], None, *wide[2:])
    assert worst(y, truth(*wide, "tanh", fixed=fixed), inputs, wide, grad) < (32 if kind == "fp64" else 8)


@pytest.mark.parametrize("mean", [1e3, 1e4])
@pytest.mark.parametrize("layout", ["contiguous", "last"])
def test_a_mean_far_greater_than_the_spread(layout, mean, chosen):
    x, _, weight, bias = leaves((4, 3, 12, 16), chosen, torch.float32, layout, mean)
    with torch.no_grad():
        x[:2, 1] = 0.0  # as at a border: far from the mean of the rest
    inputs = (x, None, weight, bias)
    wide = widened(inputs)
    moved = [torch.zeros(3, device=chosen), torch.ones(3, device=chosen)]
    y = F.batch_norm_act(x, *moved, weight, bias, True, 0.1, activation="gelu")
    grad = torch.cos(torch.arange(x.numel())).view(x.shape).to(chosen)
    assert worst(y, truth(*wide, "gelu"), inputs, wide, grad) < 16
    var, mean = torch.var_mean(x.detach().double(), (0, 2, 3))
    assert off(moved[0], 0.1 * mean) < 2 and off(moved[1], 0.9 + 0.1 * var) < 4


@pytest.mark.parametrize("name", [*(row.name for row in catalogue(Activation)), "identity"])
def test_every_activation(name, chosen):
    if INTERPRETED and name not in ("silu", "relu", "identity"):
        pytest.skip("slow to interpret, and the formulas have tests of their own")
    constants = {"threshold": 0.5, "value": 0.25} if name == "threshold" else {}
    inputs = leaves((6, 4), chosen, torch.float64)
    x, residual, weight, bias = inputs
    wide = widened(inputs)
    y = F.batch_norm_act(x, None, None, weight, bias, True, activation=name, residual=residual, **constants)
    assert worst(y, truth(*wide, name, **constants), inputs, wide, torch.cos(y).detach()) < 64


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=5).filter(lambda s: torch.Size(s).numel() > s[1]),
    layout=st.sampled_from(["dense", "permuted", "sliced"]),
    data=st.data(),
)
def test_any_layout(shape, layout, data):
    x = torch.randn([*shape, 2], dtype=torch.float64)[..., 0] if layout == "sliced" else torch.randn(shape).double()
    if layout == "permuted":
        order = data.draw(st.permutations(range(len(shape))))
        x = torch.randn([shape[d] for d in order]).double().permute([order.index(d) for d in range(len(shape))])
    residual = torch.randn(shape[::-1]).double().permute(list(reversed(range(len(shape)))))
    weight, bias = torch.randn(shape[1]).double(), torch.randn(2 * shape[1]).double()[::2]
    inputs = tuple(tensor.requires_grad_() for tensor in (x, residual, weight, bias))
    wide = widened(inputs)
    y = F.batch_norm_act(x, None, None, weight, bias, True, activation="softplus", residual=residual)
    grad = torch.randn(1, dtype=torch.float64).expand(shape)
    assert y.stride() == torch.empty_like(x).stride()
    assert worst(y, truth(*wide, "softplus"), inputs, wide, grad) < 1024  # two values may be close to each other


def test_gradients_of_every_order():
    inputs = leaves((3, 2, 2), "cpu", torch.float64)
    fixed = torch.zeros(2).double(), torch.ones(2).double()

    def trained(x, residual, weight, bias):
        return F.batch_norm_act(x, None, None, weight, bias, True, activation="silu", residual=residual)

    def evaluated(x, residual, weight, bias):
        return F.batch_norm_act(x, *fixed, weight, bias, activation="tanh", residual=residual)

    def plain(x, residual, weight, bias):
        return F.batch_norm_act(x, None, None, None, None, True, residual=residual)

    for function in (trained, evaluated):
        assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(function, inputs)
    assert torch.autograd.gradcheck(plain, inputs) and torch.autograd.gradgradcheck(plain, inputs)


def test_only_what_is_asked_for():
    x, residual, weight, bias = leaves((4, 3, 5, 5), "cpu", torch.float32)
    whole = torch.autograd.grad(F.batch_norm_act(*_frozen(x, weight, bias), True, activation="silu").sum(), x)
    y = F.batch_norm_act(x, None, None, weight, bias.detach(), True, activation="silu")
    for got, want in zip(torch.autograd.grad(y.sum(), (x, weight)), whole, strict=False):
        assert torch.allclose(got, want, atol=1e-6)
    y = F.batch_norm_act(x.detach(), None, None, weight.detach(), None, True, activation="relu", residual=residual)
    (found,) = torch.autograd.grad(y.sum(), residual)
    assert torch.equal(found, (y > 0).float())


def _frozen(x, weight, bias):
    return x, None, None, weight.detach(), bias.detach()


def test_the_same_for_any_number_of_threads():
    x, residual, weight, bias = leaves((40, 24, 30, 30), "cpu", torch.float32)
    threads, found = torch.get_num_threads(), []
    for tensor in (x, x.detach().to(memory_format=torch.channels_last).requires_grad_()):
        found = []
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            y = F.batch_norm_act(tensor, None, None, weight, bias, True, activation="silu")
            found.append((y, *torch.autograd.grad(y, (tensor, weight, bias), residual)))
        torch.set_num_threads(threads)
        for other in found[1:]:
            assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


@pytest.mark.parametrize("name", ["silu", "identity"])
def test_what_is_kept(name):
    kept = []
    x, residual, weight, bias = leaves((4, 6, 5, 5), "cpu", torch.float32)
    with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        F.batch_norm_act(x, None, None, weight, bias, True, activation=name, residual=residual)
    big = [tensor.data_ptr() for tensor in kept if tensor.numel() == x.numel()]
    assert big == [x.data_ptr()] + ([residual.data_ptr()] if name == "silu" else [])
    assert sum(tensor.numel() for tensor in kept if tensor.numel() < x.numel()) == (2 + 4) * 6


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_running_statistics_are_torchs(kind, momentum, chosen):
    if INTERPRETED and momentum is None and kind == "fp32":
        pytest.skip("slow to interpret, and no other code")
    dtype = DTYPES[kind]
    ours = nn.BatchNormAct2d(4, momentum=momentum, device=chosen, dtype=dtype)
    theirs = torch.nn.BatchNorm2d(4, momentum=momentum, device=chosen)
    for seed in range(3):
        x = torch.randn(5, 4, 3, 2, generator=torch.Generator().manual_seed(seed)).to(chosen, dtype) + seed
        ours(x), theirs(x.float())
    eps = 2 * torch.finfo(dtype).eps
    for name, mine in ours.state_dict().items():
        assert torch.allclose(mine.float(), theirs.state_dict()[name].float(), rtol=eps, atol=eps)


def test_running_statistics_that_do_not_lie_side_by_side(chosen):
    mean, var = torch.zeros(4, 2, device=chosen).unbind(1)
    x = leaves((6, 4), chosen, torch.float32)[0].detach()
    F.batch_norm_act(x, mean, var, training=True, momentum=1.0)
    assert torch.allclose(mean, x.mean(0), atol=1e-6) and torch.allclose(var, x.var(0), atol=1e-6)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("apart", [False, True])
def test_the_version_of_running_statistics_moves_as_torchs_does(grad, dtype, apart, chosen):
    def statistics():
        made = torch.zeros(4, 2, device=chosen, dtype=dtype).add_(1)
        return list(made.unbind(1)) if apart else [made[:, 0].clone(), made[:, 1].clone()]

    def moved(norm):
        kept = statistics()
        before = [one._version for one in kept]
        x = leaves((6, 4), chosen, dtype)[0].detach().requires_grad_(grad)
        norm(x, *kept, training=True)
        assert not torch.equal(kept[0], statistics()[0])
        return [one._version - was for one, was in zip(kept, before, strict=True)]

    for _ in range(1 if INTERPRETED else 4):  # the later ones by the C++ node
        assert moved(F.batch_norm_act) == moved(torch.nn.functional.batch_norm)


def test_compilers_and_transforms():
    x, residual, weight, bias = leaves((4, 3, 5, 5), "cpu", torch.float32)
    ours = nn.BatchNormAct2d(3, activation="gelu")
    compiled = torch.compile(copy.deepcopy(ours), fullgraph=True, backend="aot_eager")
    y, z = ours(x, residual), compiled(x, residual)
    assert torch.allclose(y, z, rtol=1e-5, atol=1e-5)
    for mine, other in zip(torch.autograd.grad(y.sum(), (x, residual)), torch.autograd.grad(z.sum(), (x, residual)),
                           strict=True):  # fmt: skip
        assert torch.allclose(mine, other, rtol=1e-4, atol=1e-5)
    for name, mine in compiled._orig_mod.state_dict().items():
        assert torch.allclose(mine.float(), ours.state_dict()[name].float(), rtol=1e-5, atol=1e-6)

    def f(x, weight, bias):
        return F.batch_norm_act(x, None, None, weight, bias, True, activation="silu")

    both = torch.func.vmap(f, in_dims=(0, None, None))(torch.stack([x, -x]), weight, bias)
    assert torch.allclose(both[1], f(-x, weight, bias), rtol=1e-5, atol=1e-5)
    tangent = torch.cos(torch.arange(x.numel())).view(x.shape)
    _, along = torch.func.jvp(lambda x: f(x, weight, bias), (x,), (tangent,))
    (back,) = torch.autograd.grad(f(x, weight, bias), x, tangent)
    assert torch.allclose((along * tangent).sum(), (back * tangent).sum(), rtol=1e-3)


def test_checkpointing_a_second_backward_and_nothing_of_the_caller_is_written():
    inputs = leaves((4, 3, 5, 5), "cpu", torch.float32)
    before = [tensor.detach().clone() for tensor in inputs]

    def f(x, residual, weight, bias):
        return F.batch_norm_act(x, None, None, weight, bias, True, activation="silu", residual=residual)

    y = f(*inputs)
    grad = torch.randn_like(y)
    given = grad.clone()
    first, second = (torch.autograd.grad(y, inputs, grad, retain_graph=True) for _ in range(2))
    kept = torch.utils.checkpoint.checkpoint(f, *inputs, use_reentrant=False)
    for one, two, three in zip(first, second, torch.autograd.grad(kept, inputs, grad), strict=True):
        assert torch.equal(one, two) and torch.equal(one, three)
    assert torch.equal(grad, given) and all(map(torch.equal, inputs, before))


def test_nan_is_seen_and_stays_in_its_channel(chosen):
    x, _, weight, bias = leaves((3, 4, 5, 5), chosen, torch.float32)
    with torch.no_grad():
        x[1, 2, 3, 3] = torch.nan
    y = F.batch_norm_act(x, None, None, weight, bias, True, activation="relu")
    assert y[:, 2].isnan().all() and not y[:, [0, 1, 3]].isnan().any()


def test_empty_batches_are_torchs():
    x = torch.zeros(0, 3, 2, 2, requires_grad=True)
    ours, theirs = nn.BatchNormAct2d(3, activation="silu"), torch.nn.BatchNorm2d(3)
    assert ours(x, residual=x).shape == theirs(x).shape == x.shape
    ours(x, residual=x).sum().backward()
    assert torch.equal(ours.running_mean, theirs.running_mean) and torch.equal(ours.weight.grad, torch.zeros(3))


def _part_of_a_batch(device_type, sizes):
    device, rank = join(device_type), torch.distributed.get_rank()
    x, residual, weight, bias = _whole(sizes, device)
    part = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    module = nn.BatchNormAct2d(3, activation="silu", process_group=torch.distributed.group.WORLD, device=device)
    module.weight, module.bias = torch.nn.Parameter(weight.detach()), torch.nn.Parameter(bias.detach())
    y = module(x[part], residual[part])
    grads = torch.autograd.grad(y, (x, residual, module.weight, module.bias), _gradient(x)[part], create_graph=True)
    (second,) = torch.autograd.grad(grads[0].square().sum(), x)
    plain = torch.autograd.grad(
        module(x[part], residual[part]), (x, residual, module.weight, module.bias), _gradient(x)[part]
    )
    found = (y, *grads, *plain, second, module.running_mean, module.running_var)
    torch.distributed.destroy_process_group()
    return [tensor.detach().cpu().numpy() for tensor in found]


def _whole(sizes, device):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(sum(sizes), 3, 4, 5, generator=generator) + 30.0
    others = [torch.randn(shape, generator=generator) for shape in (x.shape, (3,), (3,))]
    return [tensor.to(device).requires_grad_() for tensor in (x, *others)]


def _gradient(x):
    return torch.cos(torch.arange(x.numel(), dtype=torch.float32, device=x.device)).view(x.shape)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
@pytest.mark.parametrize("device_type", DEVICES)
def test_two_processes_are_one_on_the_whole_batch(device_type):
    sizes = (2, 5)
    parts = [[torch.from_numpy(one) for one in part] for part in together(2, _part_of_a_batch, device_type, sizes)]
    x, residual, weight, bias = _whole(sizes, "cpu")
    module = nn.BatchNormAct2d(3, activation="silu")
    module.weight, module.bias = torch.nn.Parameter(weight.detach()), torch.nn.Parameter(bias.detach())
    y = module(x, residual)
    grads = torch.autograd.grad(y, (x, residual, module.weight, module.bias), _gradient(x), create_graph=True)
    (second,) = torch.autograd.grad(grads[0].square().sum(), x)
    module(x, residual)
    summed = [one + two for one, two in zip(*(part[1:] for part in parts), strict=True)]
    assert torch.allclose(torch.cat([part[0] for part in parts]), y, rtol=1e-5, atol=1e-5)
    for got in (summed[:4], summed[4:8]):
        for mine, want in zip(got, grads, strict=True):
            assert torch.allclose(mine, want, rtol=1e-4, atol=1e-5)
    assert torch.allclose(summed[8], second, rtol=1e-3, atol=1e-4)
    for part in parts:
        assert torch.allclose(part[10], module.running_mean) and torch.allclose(part[11], module.running_var)


@pytest.mark.parametrize(
    ("error", "says", "arguments"),
    [
        (ValueError, r"Expected more than 1 value per channel when training, got input size", {"input": (1, 3, 1)}),
        (ValueError, r"\(3, 4\).*\(2, 4, 5\)", {"residual": torch.zeros(3, 4)}),
        (ValueError, r"float64 residual.*float32", {"residual": torch.zeros(2, 4, 5, dtype=torch.float64)}),
        (ValueError, r"weight.*\(5,\).*\(4,\)", {"weight": torch.zeros(5)}),
        (ValueError, r"running_var.*None", {"running_mean": torch.zeros(4)}),
        (ValueError, "running_mean", {"training": False}),
        (ValueError, r"\(7,\)", {"input": (7,)}),
        (ValueError, "-1.0", {"eps": -1.0}),
        (ValueError, "nosuch", {"activation": "nosuch"}),
        (TypeError, "alpha", {"activation": "relu", "alpha": 1.0}),
        (TypeError, "list", {"weight": [1.0]}),
        (NotImplementedError, "int64", {"bias": torch.zeros(4, dtype=torch.int64)}),
    ],
)
def test_bad_input_is_named(error, says, arguments):
    given = {"input": (2, 4, 5), "running_mean": None, "running_var": None, "training": True, **arguments}
    given["input"] = torch.zeros(given["input"])
    with pytest.raises(error, match=says):
        F.batch_norm_act(**given)


def test_the_modules_are_torchs():
    for dims, name in enumerate(("1d", "2d", "3d"), 1):
        shape = (4, 6, 3, 2, 2)[: dims + 2]
        x = torch.randn(shape)
        for arguments in ((), (1e-3, None), (1e-5, 0.2, False), (1e-5, 0.1, True, False)):
            ours = getattr(nn, f"BatchNormAct{name}")(6, *arguments, activation="leaky_relu", negative_slope=0.2)
            theirs = getattr(torch.nn, f"BatchNorm{name}")(6, *arguments)
            assert ours.state_dict().keys() == theirs.state_dict().keys()
            shown = repr(theirs).replace("BatchNorm", "BatchNormAct")[:-1]
            assert repr(ours) == f"{shown}, 'leaky_relu', negative_slope=0.2)"
            for _ in range(2):
                y, z = ours(x), torch.nn.functional.leaky_relu(theirs(x), 0.2)
                assert torch.allclose(y, z, rtol=1e-5, atol=1e-5)
            ours.load_state_dict(theirs.state_dict())
            for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), ours):
                z = torch.nn.functional.leaky_relu(theirs.eval()(x), 0.2)
                assert torch.allclose(other.eval()(x), z, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="4D"):
        nn.BatchNormAct2d(3)(torch.zeros(2, 3))
    assert list(nn.BatchNormAct2d(3, bias=False, track_running_stats=False).state_dict()) == ["weight"]


def test_the_examples_in_the_docstrings_run():
    for name in ("functional", "nn"):
        assert doctest.testmod(importlib.import_module(f"nnkernels.{name}.batch_normalization")).failed == 0


CONSTANTS = {"residual_ptr": None, "grad_residual_ptr": None, "MASKS": False, "EVEN": True, "RAW": False, "BLOCK": 1024}
CONSTANTS |= {"BLOCK_GROUP": 1, "STAGES": 3}
WIDE = ("weight_ptr", "bias_ptr", "statistics_ptr", "partial_ptr", "sums_ptr", "totals_ptr", "mean_ptr", "var_ptr")


@compiles
@pytest.mark.parametrize("arch", NVIDIA)
@pytest.mark.parametrize("name", ["moments", "merge", "fixed", "apply", "sums", "add_up", "spread"])
def test_kernels_compile(name, arch, fresh_cache):
    from nnkernels.triton import batch_normalization_kernels as kernels
    from nnkernels.triton.activations import FORMULAS

    formula, cols = FORMULAS["silu"], arch != "sm_90"  # one layout for each: compiling takes seconds
    constants = CONSTANTS | {"VALUE": formula.value, "D1": formula.d1, "COLS": cols}
    constants |= {"BLOCK_ROWS": 16, "BLOCK_COLS": 64, "inner": 1} if cols else {"BLOCK_ROWS": 1, "BLOCK_COLS": 1024}
    if name == "sums":
        constants["grad_x_ptr"] = None
    compiled = compile_ahead(getattr(kernels, name), arch, "bf16", constants, 4, dict.fromkeys(WIDE, "*fp32"))
    if name in ("apply", "spread"):
        assert re.search(r"(ld\.global\S*\.v4\.b32|cp\.async)", compiled.asm["ptx"])
        assert re.search(r"st\.global\S*\.v4\.b32", compiled.asm["ptx"])
