"""What backward keeps of rrelu, which knows its seed, and of activations with parameters: bytes and gradients."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_saving import BACKENDS, DTYPES, chosen  # noqa: F401
from triton_tools import INTERPRETED, compiles, interpret

import nnkernels
import nnkernels.functional as F
from nnkernels import nn

EXACT = ["input", "output", "bits", "compressed", "compressed4", "recompute"]


def rrelu(x, inplace=False):
    torch.manual_seed(7)
    return F.rrelu(x, 0.1, 0.4, training=True, inplace=inplace)


def prelu(weight):
    return lambda x: F.prelu(x, weight.to(torch.promote_types(weight.dtype, x.dtype)))


def gradient(function, x, grad=None, policy="auto"):
    """The value and the gradient, and the bytes that are kept for it."""
    leaf, kept = x.detach().requires_grad_(), {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), nnkernels.saving(policy):
        y = function(leaf)
    return y.detach(), *torch.autograd.grad(y, leaf, torch.ones_like(y) if grad is None else grad), sum(kept.values())


def same(a, b):
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


def numbers(shape, dtype, device="cpu"):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).to(dtype)
    x.view(-1)[:6] = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, -1e-30], dtype=dtype)
    return x.to(device)


CALLS = {
    "rrelu": lambda device: rrelu,
    "prelu": lambda device: prelu(torch.tensor([-0.3], device=device)),
    "prelu of channels": lambda device: prelu(torch.linspace(-1, 1, 5, device=device)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("shape", [(3, 5), (4, 5, 700), (40, 5)], ids=str)
@pytest.mark.parametrize("call", CALLS)
def test_bits_are_exact_and_few(call, shape, dtype, chosen):  # noqa: F811
    if INTERPRETED and math.prod(shape) > 1000 and dtype != torch.bfloat16:
        pytest.skip("slow when interpreted")
    function, x = CALLS[call](chosen), numbers(shape, dtype, chosen)
    grad = numbers(shape, dtype, chosen).flip(0)
    y, exact, whole = gradient(function, x, grad, "input")
    y_bits, found, kept = gradient(function, x, grad, "bits")
    assert same(y, y_bits) and same(exact, found)
    besides = whole - x.nbytes  # the seed or the weight
    assert kept == -(-x.numel() // 8) + besides


@pytest.mark.parametrize("policy", EXACT)
def test_every_policy_gives_the_gradient_of_rrelu(policy, chosen):  # noqa: F811
    x = numbers((6, 50), torch.float32, chosen)
    y, exact, _ = gradient(rrelu, x)
    y_other, found, _ = gradient(rrelu, x, policy=policy)
    assert same(y, y_other) and same(exact, found)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    call=st.sampled_from(["rrelu", "prelu", "prelu of channels"]),
    policy=st.sampled_from(["input", "bits", "compressed"]),
    layout=st.sampled_from(["dense", "permuted", "sliced", "expanded"]),
    inplace=st.booleans(),
)
def test_any_layout_under_any_policy(shape, call, policy, layout, inplace):
    x = torch.randn([*shape, 2])
    x = {"permuted": x.transpose(0, -1), "sliced": x[..., 0], "expanded": x[..., :1].expand(x.shape)}.get(layout, x)
    grad = torch.randn(x.shape[::-1]).permute(list(reversed(range(x.dim()))))
    in_place = inplace and layout != "expanded" and call == "rrelu"
    channels = x.shape[1] if call == "prelu of channels" and x.dim() > 1 else 1
    function = rrelu if call == "rrelu" else prelu(torch.linspace(-0.5, 1, channels))
    y, exact, _ = gradient(function, x, grad)
    y_other, found, _ = gradient((lambda leaf: rrelu(leaf * 1, True)) if in_place else function, x, grad, policy)
    assert torch.equal(y, y_other) and torch.equal(exact, found)
    if not in_place:
        assert y.stride() == y_other.stride() and exact.stride() == found.stride()


@pytest.mark.parametrize("function", [rrelu, prelu(torch.tensor([0.3, -0.2], dtype=torch.float64))])
def test_derivatives_of_any_order_from_bits(function):
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    with nnkernels.saving("bits"):
        assert torch.autograd.gradcheck(function, (x,)) and torch.autograd.gradgradcheck(function, (x,))
        y = function(x)
    first, second = (torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_evaluation_keeps_one_bit_as_leaky_relu_does():
    x = numbers((10, 80), torch.float32)
    y, exact, _ = gradient(F.rrelu, x)
    y_bits, found, kept = gradient(F.rrelu, x, policy="bits")
    assert same(y, y_bits) and same(exact, found) and kept == x.numel() // 8


def test_nothing_is_refused_where_nothing_is_kept():
    weight = torch.tensor([0.5], requires_grad=True)
    with nnkernels.saving("bits"), torch.no_grad():
        assert F.prelu(torch.tensor([-1.0]), weight).item() == -0.5


@pytest.mark.parametrize(
    ("call", "policy", "says"),
    [
        (lambda x, p: F.prelu(x, p), "bits", r"requires_grad_\(False\)"),
        (lambda x, p: F.prelu(x, p), "compressed", "weight that requires a gradient"),
        (lambda x, p: F.prelu(x, p.detach()), "output", "'input' is exact"),
        (lambda x, p: F.swish(x, p), "bits", "swish"),
        (lambda x, p: F.apl(x, p, p), "compressed4", "apl"),
        (lambda x, p: F.rrelu(x, -0.5, 0.5, training=True), "output", "lower=-0.5"),
        (lambda x, p: nn.PReLU(saving="bits")(x), "auto", r"requires_grad_\(False\)"),
        (lambda x, p: nn.PReLU(saving="output"), "auto", "prelu"),
        (lambda x, p: nn.PReLU(saving="recompute"), "auto", "with nnkernels.saving"),
        (lambda x, p: nn.RReLU(saving="recompute"), "auto", "with nnkernels.saving"),
        (lambda x, p: nn.RReLU(-0.5, 0.5, saving="output"), "auto", "upper=0.5"),
        (lambda x, p: nn.RReLU(saving="all"), "auto", "compressed4"),
    ],
)
def test_what_cannot_be_served_is_refused(call, policy, says):
    x, parameter = torch.randn(4, requires_grad=True), torch.tensor([0.5], requires_grad=True)
    with nnkernels.saving(policy), pytest.raises(ValueError, match=says):
        call(x, parameter)


def test_a_modules_keyword_goes_first():
    x = torch.randn(50, 4)
    frozen = nn.PReLU(4, saving="bits")
    frozen.weight.requires_grad_(False)
    for module, kept in ((frozen, 25 + 16), (nn.RReLU(0.1, 0.2, saving="bits"), 25 + 8)):
        for twin in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert "saving='bits'" in repr(twin)
            assert gradient(twin, x, policy="input")[2] == kept
    assert nn.PReLU(saving="input")(x.requires_grad_()).shape == x.shape
    old = nn.RReLU()
    del old.__dict__["saving"]  # as modules pickled by earlier versions come back
    assert repr(old) == repr(torch.nn.RReLU()) and old(x).shape == x.shape


def test_recompute_keeps_no_output_and_gives_the_same_gradients():
    torch.manual_seed(0)
    layers = [nn.RReLU(), nn.PReLU(), nn.Swish(learnable=True), nn.APL(2)]
    model = torch.nn.Sequential(*(layer for one in layers for layer in (torch.nn.Linear(16, 16), one)))
    model.append(torch.nn.Linear(16, 4))
    x = torch.randn(7, 16)

    def run(policy):
        outputs = []
        hooks = [
            layer.register_forward_hook(lambda *args: outputs.append(weakref.ref(args[-1].untyped_storage())))
            for layer in layers
        ]
        torch.manual_seed(3)
        with nnkernels.saving(policy):
            loss = model(x).square().sum()
        gc.collect()
        for hook in hooks:
            hook.remove()
        return sum(output() is not None for output in outputs), torch.autograd.grad(loss, list(model.parameters()))

    (alive, exact), (alive_again, found) = run("input"), run("recompute")
    assert alive == 4 and alive_again == 0
    assert all(torch.equal(mine, other) for mine, other in zip(exact, found, strict=True))


@pytest.mark.parametrize("follow", [torch.cosh, lambda y: y * 2], ids=["again", "not again"])
def test_recompute_refuses_a_weight_that_has_changed(follow):
    layer = nn.PReLU()
    with nnkernels.saving("recompute"):
        y = follow(layer(torch.randn(3, 4)))
    with torch.no_grad():
        layer.weight.add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()


def test_compilers_and_transforms_serve_every_policy():
    x = torch.full((20,), -1.0)
    with nnkernels.saving("bits"):
        compiled = torch.compile(nn.RReLU(0.5, 0.5, saving="bits"), fullgraph=True, backend="aot_eager")
        assert torch.equal(gradient(compiled, x)[1], torch.full((20,), 0.5))
        weight = torch.tensor([0.25], requires_grad=True)
        assert torch.equal(torch.func.grad(lambda v: F.prelu(v, weight).sum())(x), torch.full((20,), 0.25))
        assert torch.equal(torch.func.grad(lambda v: F.rrelu(v, 0.5, 0.5, True).sum())(x), torch.full((20,), 0.5))


@compiles
def test_under_the_interpreter():
    assert "triton" not in BACKENDS or not INTERPRETED
    interpret(str(Path(__file__)))
