"""What backward keeps: as many bytes as promised, and the same gradients."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path

import pytest
import saving_table
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nnkernels
import nnkernels.functional as F
from nnkernels import accuracy, dispatch, nn, policies
from nnkernels.benchmark import ours
from nnkernels.registry import Activation, catalogue, elementwise

ROOT = Path(__file__).parents[2]
TWO_SLOPES = [row.name for row in catalogue(Activation) if row.slopes]
UNBOUNDED = ("relu_squared", "starrelu")  # whose derivatives no levels can hold
SMOOTH = [row.name for row in catalogue(Activation) if not row.slopes and row.name not in UNBOUNDED]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
BACKENDS = [name for name in ("cpu", "triton", "reference") if not isinstance(dispatch.named(name), str)]


@pytest.fixture(params=BACKENDS)
def chosen(request):
    device = "cuda" if torch.cuda.is_available() and request.param != "cpu" else "cpu"
    reason = dispatch.named(request.param).unavailable(torch.device(device))
    if reason:
        pytest.skip(reason)
    with nnkernels.backend(request.param):
        yield device


def gradient(function, x, grad=None, policy="auto"):
    leaf = x.detach().requires_grad_()
    with nnkernels.saving(policy):
        y = function(leaf)
    return y.detach(), torch.autograd.grad(y, leaf, torch.ones_like(y) if grad is None else grad)[0]


def test_the_page_tells_the_bytes_that_are_kept():
    table = saving_table
    page = (ROOT / "docs/saving.md").read_text()
    told = {
        line.split("|")[1].strip(): [cell.split()[0] if cell.strip() else "" for cell in line.split("|")[2:-1]]
        for line in page.split(table.START)[1].splitlines()
        if line.startswith("| `")
    }
    calls = {f"`{row.name}`": ours(row) for row in catalogue(Activation)} | table.WITH_MORE
    assert told.keys() == calls.keys()
    for label, call in calls.items():
        measured = [table.kept_bytes(call, policy) for policy in table.POLICIES]
        assert told[label] == [table.shown(found) for found in measured], label


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", TWO_SLOPES)
def test_bits_give_the_exact_gradient(name, dtype, chosen):
    row = elementwise(name)
    x = accuracy.inputs(torch.bfloat16).to(device=chosen, dtype=dtype) if dtype != torch.bfloat16 else (
        accuracy.inputs(dtype).to(chosen)
    )  # fmt: skip
    grad = torch.randn_like(x)
    grad[::7], grad[1::7] = math.inf, math.nan
    y, exact = gradient(ours(row), x, grad)
    y_bits, found = gradient(ours(row), x, grad, "bits")
    assert torch.equal(y.nan_to_num(7.0), y_bits.nan_to_num(7.0))
    assert torch.equal(exact.nan_to_num(7.0), found.nan_to_num(7.0))


@pytest.mark.parametrize("policy", ["compressed", "compressed4"])
@pytest.mark.parametrize("name", SMOOTH)
def test_compressed_derivatives_are_within_half_a_level(name, policy, chosen):
    row = elementwise(name)
    a, b = accuracy.constants_of(row)
    x = torch.linspace(-20, 20, 40_001, dtype=torch.float64, device=chosen)
    _, found = gradient(ours(row), x, policy=policy)
    off = (found - accuracy.truth_of(row, "d1", x, a, b)).abs().max().item()
    levels = policies.levels(row, policy, a, b)
    # The range was found on a grid, and a level's number has float's digits.
    assert levels.worst_error > 0
    assert off <= levels.worst_error * 1.0001


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", [n for n in (row.name for row in catalogue(Activation))])
def test_output_gives_the_gradient_but_for_the_tails(name, dtype):
    row = elementwise(name)
    a, b = accuracy.constants_of(row)
    if not row.keeps_output(a, b) and not row.output_tells:
        pytest.skip("its derivative does not follow from its output")
    x = torch.linspace(-4, 4, 2001, dtype=torch.float64).to(dtype)
    _, exact = gradient(ours(row), x)
    _, found = gradient(ours(row), x, policy="output")
    # An output near its limit of 1 has lost what the derivative would need: an absolute error.
    assert (found - exact).abs().max() <= 4 * torch.finfo(dtype).eps


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(0, 9), min_size=0, max_size=4),
    policy=st.sampled_from(["input", "bits", "compressed", "compressed4"]),
    layout=st.sampled_from(["dense", "permuted", "sliced", "expanded"]),
    inplace=st.booleans(),
)
def test_any_layout_under_any_policy(shape, policy, layout, inplace):
    x = torch.randn([*shape, 2])
    x = {"permuted": x.transpose(0, -1), "sliced": x[..., 0], "expanded": x[..., :1].expand(x.shape)}.get(layout, x)
    grad = torch.randn(x.shape[::-1]).permute(list(reversed(range(x.dim()))))
    y, exact = gradient(F.leaky_relu, x, grad)
    in_place = inplace and layout != "expanded"
    function = (lambda leaf: F.leaky_relu_(leaf * 1)) if in_place else F.leaky_relu
    y_other, found = gradient(function, x, grad, policy)
    assert torch.equal(y, y_other) and torch.equal(exact, found)
    if not in_place:
        assert y.stride() == y_other.stride() and exact.stride() == found.stride()


def test_double_backward_and_a_second_backward():
    x = torch.randn(100, dtype=torch.float64, requires_grad=True)
    with nnkernels.saving("bits"):
        assert torch.autograd.gradcheck(F.leaky_relu, (x,)) and torch.autograd.gradgradcheck(F.leaky_relu, (x,))
        y = F.relu(x)
    first, second = (torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    for policy in ("input", "output"):
        with nnkernels.saving(policy):
            assert torch.autograd.gradcheck(F.tanh, (x,)) and torch.autograd.gradgradcheck(F.tanh, (x,))
    with nnkernels.saving("compressed"):
        y = F.silu(x)
    with pytest.raises(RuntimeError, match="saving\\('auto'\\)"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


def test_modules_carry_their_policy():
    made = nn.ReLU(inplace=True, saving="bits"), nn.GELU("tanh", saving="compressed"), nn.Swish(2.0, saving="input")
    for module in made:
        assert f"saving={module.saving!r}" in repr(module)
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            x = torch.randn(50)
            mine, others = (gradient(lambda leaf, made=made: made(leaf * 1), x) for made in (module, other))
            assert torch.equal(mine[0], others[0]) and torch.equal(mine[1], others[1])
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        nn.ReLU(saving="bits")(torch.randn(800, requires_grad=True))
    assert [tensor.nbytes for tensor in kept] == [100]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: nn.SiLU(saving="bits"), "silu"),
        (lambda: nn.ReLUSquared(saving="compressed"), "relu_squared"),
        (lambda: nn.StarReLU(saving="compressed"), "starrelu"),
        (lambda: nn.GELU(saving="output"), "gelu"),
        (lambda: nn.ELU(-1.0, saving="output"), "alpha=-1.0"),
        (lambda: nn.SiLU(saving="recompute"), "with nnkernels.saving"),
        (lambda: nn.SiLU(saving="everything"), "compressed4"),
        (lambda: nnkernels.saving("nothing"), "recompute"),
    ],
)
def test_what_cannot_be_served_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
    assert policies.chosen() == "auto"


def test_calls_refuse_what_the_policy_cannot_serve():
    with nnkernels.saving("bits"), pytest.raises(ValueError, match="silu"):
        F.silu(torch.randn(3, requires_grad=True))
    with nnkernels.saving("bits"):
        assert not F.silu(torch.randn(3)).requires_grad  # nothing is kept, so that there is nothing to refuse
    assert policies.chosen() == "auto"


def test_compilers_and_transforms_serve_every_policy():
    x = torch.randn(20)
    expected = gradient(F.relu, x)[1]
    with nnkernels.saving("bits"):
        compiled = torch.compile(nn.ReLU(saving="bits"), fullgraph=True, backend="aot_eager")
        assert torch.equal(gradient(compiled, x)[1], expected)
        assert torch.equal(torch.func.grad(lambda v: F.relu(v).sum())(x), expected)
