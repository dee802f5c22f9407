"""Layer and rms norm with residual and activation: as the composition in float64 says, and reproducible.

The Triton kernels run interpreted in a second pytest, as TRITON_INTERPRET has to be set before Triton is imported.
"""

from __future__ import annotations

import copy
import doctest
import importlib
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from row_norms import (
    DTYPES,
    EVERY_DTYPE,
    composition,
    holds,
    leaves,
    off,
    on_torch_alone,
    ours,
)  # fmt: skip
from triton_tools import INTERPRETED, compiles, interpret

import nnkernels.functional as F
from nnkernels import accuracy, nn
from nnkernels.registry import Activation, catalogue


@EVERY_DTYPE
@pytest.mark.parametrize(
    ("norm", "activation", "residual", "shape"),
    [
        ("layer_norm", "identity", False, (5, 7)),
        ("layer_norm", "silu", True, (5, 40)),
        ("layer_norm", "silu", True, (33, 48)),
        ("layer_norm", "gelu", True, (3, 300)),
        ("layer_norm", "relu", False, (2, 530)),
        ("rms_norm", "identity", True, (35, 24)),
        ("rms_norm", "mish", True, (2, 3, 130)),
        ("rms_norm", "identity", False, (1, 64)),
    ],
    ids=str,
)
def test_value_and_gradients_are_the_composition(norm, activation, residual, shape, dtype, device):
    narrow = shape in ((5, 7), (35, 24))
    if INTERPRETED and dtype not in ((torch.float64, torch.bfloat16) if narrow else (torch.float32,)):
        pytest.skip("interpreted, each row costs")
    holds(norm, leaves(norm, shape, device, dtype, residual), activation)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("cols", [48, 300])
def test_a_mean_much_larger_than_the_spread_costs_no_digits(cols, dtype, device):
    if INTERPRETED and dtype != torch.float32:
        pytest.skip("interpreted, each row costs")
    holds("layer_norm", leaves("layer_norm", (4, cols), device, dtype, residual=False, mean=1e4))


def test_a_beginning_unlike_the_rest_costs_no_digits(device):
    x, *others = leaves("layer_norm", (2, 300), device, torch.float32, residual=False, mean=1e4)
    with torch.no_grad():
        x[0, :140] = 0
        x[1, :3] = -1e6
    holds("layer_norm", (x, *others))


@on_torch_alone
@pytest.mark.parametrize("name", [*(row.name for row in catalogue(Activation)), "identity"])
def test_every_activation(name, device):
    constants = {"threshold": 0.5, "value": 0.25} if name == "threshold" else {}
    inputs = leaves("layer_norm", (3, 10), device)
    y = ours("layer_norm", *inputs, name, **constants)
    exact = composition("layer_norm", *inputs, name, **constants)
    assert torch.allclose(y, exact, rtol=1e-12, atol=1e-13)
    grad = torch.linspace(-1, 2, 30, dtype=torch.float64, device=device).view(3, 10)
    mine, truth = (torch.autograd.grad(value, inputs, grad) for value in (y, exact))
    for got, want in zip(mine, truth, strict=True):
        assert torch.allclose(got, want, rtol=1e-10, atol=1e-12)


def test_types_may_differ_and_gradients_have_the_parameters_type(device):
    for dtype, parameters in ((torch.bfloat16, torch.float32), (torch.float32, torch.float16))[
        : 1 if INTERPRETED else 2
    ]:
        holds("layer_norm", leaves("layer_norm", (5, 24), device, dtype, parameters=parameters), "silu")
    x, weight, *_ = leaves("rms_norm", (100, 16), device, torch.bfloat16, parameters=torch.float32, residual=False)
    (found,) = torch.autograd.grad(ours("rms_norm", x, weight).sum(), weight)
    (exact,) = torch.autograd.grad(composition("rms_norm", x, weight).sum(), weight)
    assert torch.allclose(found, exact.float(), rtol=1e-5, atol=1e-5)  # as no sum in 16 bits would be


@pytest.mark.parametrize("of", [torch.bfloat16, torch.float16, torch.float32], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("activation", ["identity", "silu"])
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_the_result_may_be_of_another_type(norm, activation, of, device):
    """float32 of 16 bits and 16 bits of float32, each as exact as its own type, gradients in the operands' types."""
    to = torch.bfloat16 if of == torch.float32 else torch.float32
    inputs = leaves(norm, (5, 48), device, of)
    wide = [None if one is None else one.detach().double().requires_grad_() for one in inputs]
    found, truth = ours(norm, *inputs, activation=activation, dtype=to), ours(norm, *wide, activation=activation)
    assert found.dtype == to and off(found, truth) <= 2 * accuracy.LIMITS[to]
    grad = torch.randn_like(found)
    given = [one for one in inputs if one is not None]
    expected = torch.autograd.grad(truth, [one for one in wide if one is not None], grad.double())
    for ours_, theirs, one in zip(torch.autograd.grad(found, given, grad), expected, given, strict=True):
        assert ours_.dtype == one.dtype and off(ours_, theirs) <= 3 * accuracy.LIMITS[one.dtype]


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    dims=st.integers(1, 4),
    layout=st.sampled_from(["dense", "permuted", "sliced", "half"]),
    norm=st.sampled_from(["layer_norm", "rms_norm"]),
    data=st.data(),
)
@on_torch_alone
def test_any_layout(shape, dims, layout, norm, data):
    dims = min(dims, len(shape))
    x = torch.randn(shape).double()
    if layout == "permuted":
        order = data.draw(st.permutations(range(len(shape))))
        x = torch.randn([shape[d] for d in order]).double().permute([order.index(d) for d in range(len(shape))])
    elif layout == "sliced":
        x = torch.randn([*shape, 2], dtype=torch.float64)[..., 0]
    elif layout == "half":
        x = torch.randn([*shape[:-1], 2 * shape[-1]], dtype=torch.float64)[..., : shape[-1]]
    x.requires_grad_()
    weight = torch.randn(shape[len(shape) - dims :]).double().requires_grad_()
    y, exact = (
        ours(norm, x, weight, activation="tanh", dims=dims),
        composition(norm, x, weight, None, None, "tanh", dims),
    )
    assert torch.allclose(y, exact, rtol=1e-12, atol=1e-13) and y.is_contiguous()
    grad = torch.randn(shape[::-1]).double().permute(list(reversed(range(len(shape)))))
    for mine, other in zip(
        torch.autograd.grad(y, (x, weight), grad), torch.autograd.grad(exact, (x, weight), grad), strict=True
    ):
        assert torch.allclose(mine, other, rtol=1e-9, atol=1e-9) and mine.shape == other.shape


def test_rows_apart_are_read_where_they_lie(device):
    wide = torch.randn(6, 96, device=device)
    half = wide.chunk(2, -1)[1]
    assert torch.equal(ours("layer_norm", half), ours("layer_norm", half.contiguous()))
    x = wide.detach().requires_grad_()
    (constant,) = torch.autograd.grad(ours("rms_norm", x).sum(), x)
    (ones,) = torch.autograd.grad(ours("rms_norm", x), x, torch.ones_like(x))
    assert torch.equal(constant, ones)


def test_a_row_of_nan_is_alone(device):
    x = torch.randn(4, 40, device=device)
    x[1, 3], x[2, 5] = torch.nan, torch.inf
    for norm in ("layer_norm", "rms_norm"):
        y = ours(norm, x)
        assert y[1].isnan().all() and y[2].isnan().any() and y[0].isfinite().all() and y[3].isfinite().all()


def test_the_residual_broadcasts_and_each_gradient_can_be_had_alone(device):
    x, weight, bias, _ = leaves("layer_norm", (2, 6), device)
    residual = torch.randn(6, dtype=torch.float32, device=device).requires_grad_()
    for activation in ("identity", "silu"):
        tensors = (x, weight, bias, residual)
        truth = torch.autograd.grad(composition("layer_norm", *tensors, activation).sum(), tensors)
        for i, tensor in list(enumerate(tensors))[3 if INTERPRETED else 0 :]:
            others = [other if j == i else other.detach() for j, other in enumerate(tensors)]
            (found,) = torch.autograd.grad(ours("layer_norm", *others, activation).sum(), tensor)
            assert found.dtype == tensor.dtype and torch.allclose(found, truth[i], rtol=1e-5, atol=1e-6)


@on_torch_alone
@pytest.mark.parametrize("activation", ["identity", "mish"])
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_gradients_of_every_order(norm, activation):
    given = [tensor for tensor in leaves(norm, (2, 3, 4), "cpu", dims=2) if tensor is not None]

    def function(x, weight, *others):
        bias, residual = others if norm == "layer_norm" else (None, *others)
        return ours(norm, x, weight, bias, residual, activation, dims=2)

    assert torch.autograd.gradcheck(function, given, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, given)


@on_torch_alone
def test_the_same_for_any_number_of_threads():
    inputs = leaves("layer_norm", (1000, 200), "cpu", torch.float32)
    grad = torch.randn(1000, 200)
    found = []
    threads = torch.get_num_threads()
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        y = ours("layer_norm", *inputs, "gelu")
        found.append((y, *torch.autograd.grad(y, inputs, grad)))
    torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


@on_torch_alone
@pytest.mark.parametrize(
    ("norm", "activation", "bytes_kept"),
    [
        ("layer_norm", "identity", 512 + 2 * 4 * 8),
        ("layer_norm", "gelu", 1024 + 2 * 4 * 8),
        ("rms_norm", "identity", 544),
    ],
)
def test_backward_keeps_the_input_and_the_statistics(norm, activation, bytes_kept):
    kept = []
    inputs = leaves(norm, (4, 32), "cpu", torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ours(norm, *inputs, activation)
    parameters = {tensor.data_ptr() for tensor in inputs[1:3] if tensor is not None}
    assert sum(t.numel() * t.element_size() for t in kept if t.data_ptr() not in parameters) == bytes_kept


@on_torch_alone
def test_compilers_transforms_and_modes():
    inputs = leaves("layer_norm", (4, 6), "cpu", torch.float32)

    def f(*tensors):
        return ours("layer_norm", *tensors, "gelu")

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(*inputs), f(*inputs), rtol=1e-5, atol=1e-6)
    x, *others = inputs
    batch = torch.func.vmap(lambda x: f(x, *others))(torch.stack([x, -x]))
    assert torch.allclose(batch[1], f(-x, *others), rtol=1e-5, atol=1e-6)
    _, along = torch.func.jvp(lambda x: f(x, *others), (x,), (torch.ones_like(x),))
    assert torch.allclose(along, torch.zeros_like(x), atol=1e-5)  # a shift of the input changes nothing
    kept = torch.utils.checkpoint.checkpoint(f, *inputs, use_reentrant=False)
    for mine, other in zip(*(torch.autograd.grad(y.sum(), inputs) for y in (kept, f(*inputs))), strict=True):
        assert torch.equal(mine, other)
    with torch.autocast("cpu", torch.bfloat16):
        assert f(*inputs).dtype == torch.float32 and f(x.bfloat16(), *others).dtype == torch.bfloat16


@EVERY_DTYPE
def test_the_default_epsilon_is_torchs(dtype, device):
    x = torch.full((1, 8), 2.0**-10, dtype=dtype, device=device)
    assert torch.allclose(F.rms_norm_act(x, 8), torch.nn.functional.rms_norm(x, (8,)), rtol=2 * torch.finfo(dtype).eps)


@on_torch_alone
@pytest.mark.parametrize(
    ("error", "says", "call"),
    [
        (ValueError, r"normalized_shape=\[5\].*\[\*, 5\].*\[4, 6\]", lambda x: F.layer_norm_act(x, 5)),
        (TypeError, "normalized_shape must be an int, got float: 6.0", lambda x: F.add_rms_norm(x, x, 6.0)),
        (TypeError, "eps must be a number, got NoneType", lambda x: F.add_layer_norm(x, x, 6, eps=None)),
        (TypeError, "group_size must be an int, got float", lambda x: F.gated_rms_norm(x, x, 6, group_size=2.0)),
        (RuntimeError, r"\[2, 6\].*\[4, 6\]", lambda x: F.rms_norm_act(x, (2, 6))),
        (ValueError, "at least 1-dimensional", lambda x: F.rms_norm_act(x, ())),
        (RuntimeError, r"weight of shape \[5\].*\[6\]", lambda x: F.layer_norm_act(x, 6, torch.ones(5))),
        (ValueError, r"bias of shape \[1\].*\[6\]", lambda x: F.layer_norm_act(x, 6, None, torch.ones(1))),
        (ValueError, r"\(3, 6\).*\(4, 6\)", lambda x: F.layer_norm_act(x, 6, residual=torch.zeros(3, 6))),
        (ValueError, "-1", lambda x: F.layer_norm_act(x, 6, eps=-1)),
        (ValueError, "nan", lambda x: F.rms_norm_act(x, 6, eps=float("nan"))),
        (ValueError, "nosuch", lambda x: F.layer_norm_act(x, 6, activation="nosuch")),
        (TypeError, "alpha", lambda x: F.rms_norm_act(x, 6, activation="relu", alpha=1.0)),
        (NotImplementedError, r"int64.*weight.*\(6,\)", lambda x: F.layer_norm_act(x, 6, torch.ones(6).long())),
        (TypeError, "float64.*float32", lambda x: F.rms_norm_act(x, 6, dtype=torch.float64)),
        (TypeError, "'residual' must be Tensor, not float", lambda x: F.rms_norm_act(x, 6, residual=1.0)),
        (ValueError, "meta", lambda x: F.layer_norm_act(x, 6, torch.ones(6, device="meta"))),
        (ValueError, "-2", lambda x: nn.LayerNormAct(6, eps=-2)),
        (ValueError, "nosuch", lambda x: nn.RMSNormAct(6, activation="nosuch")),
    ],
)
def test_bad_input_is_named(error, says, call):
    with pytest.raises(error, match=says):
        call(torch.zeros(4, 6))


@on_torch_alone
def test_the_modules_are_torchs():
    x, residual = torch.randn(3, 4, 6), torch.randn(3, 4, 6)
    for own, theirs, arguments in (
        (nn.LayerNormAct, torch.nn.LayerNorm, [((4, 6),), (6, 1e-3, True, False), (6, 1e-5, False)]),
        (nn.RMSNormAct, torch.nn.RMSNorm, [((4, 6),), (6, 1e-3), (6, None, False)]),
    ):
        for one in arguments:
            mine, other = own(*one), theirs(*one)
            for parameter in other.parameters():
                torch.nn.init.normal_(parameter)
            mine.load_state_dict(other.state_dict())
            assert isinstance(mine, theirs) and repr(mine) == repr(other).replace(theirs.__name__, own.__name__)
            assert torch.allclose(mine(x), other(x), rtol=1e-5, atol=1e-6)
            assert torch.allclose(mine(x, residual), other(x) + residual, rtol=1e-5, atol=1e-5)
    module = nn.LayerNormAct(6, activation="leaky_relu", negative_slope=0.2)
    assert repr(module).endswith(", activation='leaky_relu', negative_slope=0.2)")
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert repr(other) == repr(module) and torch.equal(other(x), module(x))
    assert torch.allclose(module(x), torch.nn.functional.leaky_relu(torch.nn.LayerNorm(6)(x), 0.2), atol=1e-6)


@on_torch_alone
@pytest.mark.parametrize("module", ["functional.normalization", "nn.normalization"])
def test_examples(module):
    assert doctest.testmod(importlib.import_module(f"nnkernels.{module}")).failed == 0


@compiles
def test_under_the_interpreter():
    interpret(__file__, only="")
