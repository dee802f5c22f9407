"""Gated activations: any gate of the catalogue, any layout, both gradients, on every backend.

Triton's part runs under its interpreter in a second pytest, or here if there is a GPU.
"""

from __future__ import annotations

import functools
import math

import pytest
import torch
from composing import composed, eager, off_knees
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from triton_tools import INTERPRETED, compiles, interpret

import nnkernels.functional as F
from nnkernels import accuracy, dispatch, nn
from nnkernels.registry import Activation, catalogue

ROWS = catalogue(Activation)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}
VALUE_LIMITS = accuracy.LIMITS | {torch.float32: 5.0}
GRADIENT_LIMITS = accuracy.LIMITS | {torch.float32: 6.0}  # two more roundings


@compiles
def test_under_the_interpreter():
    interpret(__file__)


def constants_of(row: Activation) -> dict[str, float]:
    return dict(zip(row.parameters, accuracy.constants_of(row), strict=False))


def gates(dtype: torch.dtype) -> Tensor:
    """A grid around zero and into both tails."""
    step = 8 if INTERPRETED else 1
    return torch.cat([torch.linspace(-12, 12, 4001)[::step], torch.linspace(-100, 100, 1601)[::step]]).to(dtype)


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_accuracy_of_value_and_both_gradients(row: Activation, kind: str, chosen: str):
    if INTERPRETED and kind in ("fp16", "fp64"):
        pytest.skip("slow to interpret, and no other code than the other types'")
    dtype = DTYPES[kind]
    gate = gates(dtype).to(chosen)
    generator = torch.Generator().manual_seed(1)
    up, grad = (torch.randn(gate.shape, generator=generator).to(chosen, dtype) for _ in range(2))
    leaves = gate.requires_grad_(), up.requires_grad_()
    y = F.gated(gate, row.name, up=up, **constants_of(row))
    grad_gate, grad_up = torch.autograd.grad(y, leaves, grad)

    a, b = accuracy.constants_of(row)
    gate, up = gate.detach(), up.detach()
    value, slope = (accuracy.truth_of(row, order, gate, a, b) for order in ("value", "d1"))
    factor, wide_grad = up.double(), grad.double()
    # A value that is subnormal in float32 has lost digits before it is multiplied.
    normal = (value.abs() >= 2.0**-126) | (value == 0) | (dtype == torch.float64)
    close = torch.where(gate.double().abs() < 0.25, 2.0**-6, 0.0) if row.name == "tanhshrink" else 0.0
    assert accuracy.errors(y.detach(), value * factor, close)[normal].max() <= VALUE_LIMITS[dtype]
    assert accuracy.errors(grad_up, wide_grad * value, close)[normal].max() <= GRADIENT_LIMITS[dtype]
    normal = (slope.abs() >= 2.0**-126) | (slope == 0) | (dtype == torch.float64)
    assert accuracy.errors(grad_gate, wide_grad * factor * slope)[normal].max() <= GRADIENT_LIMITS[dtype]


def situ(gate: Tensor, up: Tensor, beta: float, linear_beta: float | None) -> Tensor:
    """Kimi K3's SituAndMul."""
    gate = beta * torch.tanh(gate / beta) * torch.sigmoid(gate)
    return gate * (up if linear_beta is None else linear_beta * torch.tanh(up / linear_beta))


@pytest.mark.parametrize("caps", [(4.0, 25.0), (0.5, 1e-3), (300.0, None)], ids=str)
@pytest.mark.parametrize("kind", DTYPES)
def test_accuracy_of_caps(kind: str, caps: tuple[float, float | None], chosen: str):
    if INTERPRETED and kind in ("fp16", "fp64"):
        pytest.skip("slow to interpret, and no other code than the other types'")
    dtype = DTYPES[kind]
    gate = gates(dtype).to(chosen)
    generator = torch.Generator().manual_seed(1)
    up, grad = (30 * torch.randn(gate.shape, generator=generator).to(chosen, dtype) for _ in range(2))
    leaves = gate.requires_grad_(), up.requires_grad_()
    beta, linear_beta = caps
    if linear_beta and dtype != torch.float64:  # as the kernels take it
        linear_beta = torch.tensor(linear_beta).item()
    y = F.situ_glu(gate, up, beta=beta, linear_beta=linear_beta)
    for_gate, for_up = torch.autograd.grad(y, leaves, grad)

    z, u, g = (tensor.detach().double() for tensor in (gate, up, grad))
    factor = u if linear_beta is None else linear_beta * torch.tanh(u / linear_beta)
    slope = 1.0 if linear_beta is None else 1 / torch.cosh(u / linear_beta).square()
    capped = beta * torch.tanh(z / beta)
    terms = torch.sigmoid(z) / torch.cosh(z / beta).square(), capped * torch.sigmoid(z) * torch.sigmoid(-z)
    exact = capped * torch.sigmoid(z) * factor, g * factor * sum(terms), g * capped * torch.sigmoid(z) * slope
    # The terms have different signs below 0: the digits of their sum are theirs.
    floors = 0.0, 2 * (g * factor).abs() * torch.minimum(terms[0], terms[1].abs()), 0.0
    limit = VALUE_LIMITS[dtype] if dtype.itemsize == 2 else 3 * VALUE_LIMITS[dtype]  # for each of three factors
    for mine, truth, floor in zip((y.detach(), for_gate, for_up), exact, floors, strict=True):
        normal = truth.abs() >= 2.0 ** (-900 if dtype == torch.float64 else -100)  # no factor has lost digits
        assert accuracy.errors(mine, truth, floor)[normal].max() <= limit


def test_caps_keep_infinities_and_nan_and_have_second_derivatives(chosen: str):
    gate = torch.tensor([math.inf, -math.inf, math.nan, 1.0, 1.0, 1.0], device=chosen)
    up = torch.tensor([1.0, 1.0, 1.0, math.inf, -math.inf, math.nan], device=chosen)
    y = F.situ_glu(gate, up, beta=2.0, linear_beta=3.0)
    torch.testing.assert_close(y, situ(gate, up, 2.0, 3.0), equal_nan=True)
    x = torch.linspace(-3, 3, 12, dtype=torch.float64, device=chosen).requires_grad_()
    if not INTERPRETED:
        assert torch.autograd.gradcheck(F.situ_glu, x) and torch.autograd.gradgradcheck(F.situ_glu, x)


NAMED = {
    "glu": (F.glu, lambda x: eager.glu(x)),
    "swiglu": (F.swiglu, lambda x: composed(x, eager.silu)),
    "swiglu-beta": (functools.partial(F.swiglu, beta=1.7), lambda x: composed(x, lambda g: g * torch.sigmoid(1.7 * g))),
    "geglu": (F.geglu, lambda x: composed(x, eager.gelu)),
    "geglu-tanh": (
        functools.partial(F.geglu, approximate="tanh"),
        lambda x: composed(x, functools.partial(eager.gelu, approximate="tanh")),
    ),
    "geglu-of-diffusers": (
        functools.partial(F.geglu, gate_first=False),
        lambda x: composed(x, eager.gelu, -1, False, False),
    ),
    "reglu": (F.reglu, lambda x: composed(x, eager.relu)),
    "situ_glu": (F.situ_glu, lambda x: situ(*x.chunk(2, -1), 4.0, 25.0)),
    "situ_glu-without-a-cap": (
        functools.partial(F.situ_glu, beta=0.7, linear_beta=None, interleaved=True, gate_first=False),
        lambda x: situ(x[..., 1::2], x[..., ::2], 0.7, None),
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_the_named_ones_are_what_users_compose(name: str, chosen: str):
    ours, theirs = NAMED[name]
    x = off_knees(3, 5, 14).to(chosen).requires_grad_()
    y, expected = ours(x), theirs(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(
        torch.autograd.grad(y.square().sum(), x), torch.autograd.grad(expected.square().sum(), x)
    )


@pytest.mark.parametrize("kind", ["bf16", "fp32"])
def test_limit_and_offset_are_those_of_gpt_oss(kind: str, chosen: str):
    x = (4 * torch.randn(6, 64)).to(chosen, DTYPES[kind]).requires_grad_()
    twin = x.detach().double().requires_grad_()
    gate = twin[..., ::2].clamp(max=3.01)
    expected = gate * torch.sigmoid(gate * 1.5) * (twin[..., 1::2].clamp(-3.01, 3.01) + 1)
    y = F.swiglu(x, beta=1.5, interleaved=True, limit=3.01, offset=1.0)
    torch.testing.assert_close(y.double(), expected.detach(), **tolerance(kind))
    grad = torch.randn_like(y)
    (got,), (wanted,) = torch.autograd.grad(y, x, grad), torch.autograd.grad(expected, twin, grad.double())
    torch.testing.assert_close(got.double(), wanted, **tolerance(kind))
    assert torch.equal(got == 0, wanted == 0)


def tolerance(kind: str) -> dict[str, float]:
    return {"rtol": 2.0**-8 if kind == "bf16" else 1e-5, "atol": 0.0 if kind == "bf16" else 1e-6}


@pytest.mark.parametrize("kind", ["bf16", "fp32"])
def test_a_limit_behind_the_activation_is_that_of_step_3(kind: str, chosen: str):
    x = (4 * torch.randn(6, 64)).to(chosen, DTYPES[kind]).requires_grad_()
    twin = x.detach().double().requires_grad_()
    expected = eager.silu(twin[..., :32]).clamp(max=3.01) * twin[..., 32:].clamp(-3.01, 3.01)
    y = F.gated(x, "silu", limit=3.01, limit_after=True)
    assert torch.equal(nn.Gated("silu", limit=3.01, limit_after=True)(x), y)
    torch.testing.assert_close(y.double(), expected.detach(), **tolerance(kind))
    grad = torch.randn_like(y)
    (got,), (wanted,) = torch.autograd.grad(y, x, grad), torch.autograd.grad(expected, twin, grad.double())
    torch.testing.assert_close(got.double(), wanted, **tolerance(kind))
    assert torch.equal(got == 0, wanted == 0)
    over = torch.tensor([9.0, math.nan], device=chosen, dtype=DTYPES[kind])
    assert F.gated(over, "silu", up=torch.ones_like(over), limit=2.0, limit_after=True).tolist()[0] == 2
    assert F.gated(over, "silu", up=torch.ones_like(over), limit=2.0, limit_after=True)[1].isnan()


def test_gradients_pass_at_the_limit_and_not_beyond(chosen: str):
    """At the limit itself torch's clamp has gradient 1 in version 2.11 and 0 in 2.14."""
    gate = torch.tensor([2.0, 2.5, -9.0, 1.0, 1.0, 1.0], device=chosen, requires_grad=True)
    up = torch.tensor([1.0, 1.0, 1.0, 2.0, -2.0, -2.5], device=chosen, requires_grad=True)
    for_gate, for_up = torch.autograd.grad(F.reglu(gate, up, limit=2.0).sum(), (gate, up))
    assert for_gate.tolist() == [1.0, 0.0, 0.0, 2.0, -2.0, -2.0]
    assert for_up.tolist() == [2.0, 2.0, 0.0, 1.0, 1.0, 0.0]


def test_nan_comes_through(chosen: str):
    nan, one = torch.tensor([math.nan], device=chosen), torch.tensor([1.0], device=chosen)
    for row in ROWS:
        for limit in (None, 2.0):
            assert F.gated(nan, row.name, up=one, limit=limit, **constants_of(row)).isnan()
            assert F.gated(one, row.name, up=nan, limit=limit, **constants_of(row)).isnan()


def test_a_closed_piecewise_gate_hides_infinite_gradients(chosen: str):
    gate = torch.tensor([-1.0, -1.0, 2.0], device=chosen, requires_grad=True)
    up = torch.tensor([math.inf, 1.0, 3.0], device=chosen)
    grad = torch.tensor([1.0, math.inf, 1.0], device=chosen)
    (got,) = torch.autograd.grad(F.reglu(gate, up), gate, grad)
    assert got.tolist() == [0.0, 0.0, 3.0]


def test_zeros_keep_their_sign(chosen: str):
    zero = torch.tensor([-0.0], device=chosen)
    assert F.reglu(torch.ones_like(zero), zero, limit=1.0).signbit().all()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_gradcheck_of_first_and_second_order(row: Activation):
    x, constants = off_knees(2, 6).requires_grad_(), constants_of(row)

    def f(x: Tensor) -> Tensor:
        return F.gated(x, row.name, interleaved=True, limit=3.3, offset=0.5, **constants)

    assert torch.autograd.gradcheck(f, (x,), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(f, (x,), check_fwd_over_rev=True)


def test_gradcheck_of_two_tensors():
    inputs = off_knees(5).requires_grad_(), off_knees(5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(F.geglu, inputs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(F.geglu, inputs)


def test_transforms_agree():
    x = off_knees(4, 10)

    def total(x: Tensor) -> Tensor:
        return F.swiglu(x).sum()

    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(total(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(total)(x), slope)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(total))(x), slope)
    torch.testing.assert_close(torch.func.vmap(F.glu, in_dims=1)(x.t().contiguous()), eager.glu(x))
    value, tangent = torch.func.jvp(F.swiglu, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(value, F.swiglu(x))
    torch.testing.assert_close(tangent.sum(), slope.sum())
    forward = torch.func.jacfwd(torch.func.jacfwd(total))(x[0])
    torch.testing.assert_close(forward, torch.func.hessian(total)(x[0]))


@pytest.mark.filterwarnings("error:Dynamo detected a call")
def test_compiles_into_one_graph():
    torch._dynamo.reset()

    def f(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
        y = F.gated(x, "leaky_relu", negative_slope=0.3, interleaved=True, limit=3.0, offset=1.0)
        return y + F.reglu(gate, up) + F.glu(x) + nn.SwiGLU(beta=1.5)(x)

    inputs = [torch.randn(shape, requires_grad=True) for shape in ((3, 12), (3, 6), (3, 6))]
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    y, expected = compiled(*inputs), f(*inputs)
    torch.testing.assert_close(y, expected)
    grad = torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, inputs, grad), torch.autograd.grad(expected, inputs, grad))


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "two tensors"])
def test_backward_keeps_what_was_given_and_nothing_else(packed: bool):
    inputs = [torch.randn(4, 16, requires_grad=True) for _ in range(1 if packed else 2)]
    kept: list[Tensor] = []
    with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        F.swiglu(*inputs)
    assert [t.data_ptr() for t in kept] == [x.data_ptr() for x in inputs]
    kept.clear()
    with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t), torch.no_grad():
        assert not F.swiglu(*inputs).requires_grad
    assert not kept


def test_a_second_backward_gives_the_same(chosen: str):
    x = torch.randn(3, 10, device=chosen, requires_grad=True)
    y = F.swiglu(x)
    first, second = (torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "pairs"])
def test_packed_input_and_gradient_are_not_copied(interleaved: bool):
    if isinstance(dispatch.named("cpu"), str):
        pytest.skip("the C++ kernels were not built")
    x = torch.randn(8, 64, requires_grad=True)
    with torch.profiler.profile() as profile:
        y = F.swiglu(x, interleaved=interleaved)
        torch.autograd.grad(y, x, torch.ones((), dtype=y.dtype).expand(y.shape))
    names = {event.name for event in profile.events()}
    assert "nnkernels::gated_backward" in names
    assert not {"aten::copy_", "aten::clone", "aten::contiguous", "aten::cat"} & names


def test_threads_give_the_same_bits():
    x, before = torch.randn(7, 40_002)[:, 2:], torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            leaf = x.detach().requires_grad_()
            y = F.geglu(leaf)
            results.append((y.detach(), torch.autograd.grad(y.sum(), leaf)[0]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_more_than_2_to_the_31_elements():
    for interleaved in (False, True):
        x = torch.ones(2, 2**30 + 16, dtype=torch.bfloat16, device="cuda", requires_grad=True)
        y = F.reglu(x, interleaved=interleaved)
        assert y[1, -8:].tolist() == [1.0] * 8
        (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
        assert grad[1, -8:].tolist() == [1.0] * 8
        del x, y, grad
