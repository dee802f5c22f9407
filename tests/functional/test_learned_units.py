"""xIELU, Snake, StarReLU and dynamic tanh: against the libraries they come from, and in their tails."""

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch
from conftest import DEVICE
from torch import Tensor

import nnkernels
import nnkernels.functional as F
from nnkernels import accuracy, nn

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def composed(name: str, x: Tensor, *parameters: Tensor) -> Tensor:
    """As the libraries write them, of channels in dimension 1."""
    p, *more = (one.view(-1, 1) for one in parameters)
    if name == "xielu":
        alpha_p, alpha_n = torch.nn.functional.softplus(p), 0.5 + torch.nn.functional.softplus(more[0])
        below = torch.expm1(torch.min(x, torch.tensor(-1e-6, dtype=x.dtype))) - x
        return torch.where(x > 0, alpha_p * x * x + 0.5 * x, below * alpha_n + 0.5 * x)
    if name == "snake_beta":
        return x + (1.0 / (more[0] + 1e-9)) * torch.pow(torch.sin(x * p), 2)
    if name == "starrelu":
        return p * torch.relu(x) ** 2 + more[0]
    return more[0] * torch.tanh(p * x) + more[1]


def ours(name: str, x: Tensor, *parameters: Tensor) -> Tensor:
    return F.dyt(x, *parameters, dim=1) if name == "dyt" else getattr(F, name)(x, *parameters)


COUNTS = {"xielu": 2, "snake_beta": 2, "starrelu": 2, "dyt": 3}


@pytest.mark.parametrize("channels", [(1, 1, 1), (4, 4, 4), (1, 4, 4), (4, 1, 4)], ids=str)
@pytest.mark.parametrize("name", COUNTS)
def test_value_gradients_and_second_derivatives_are_the_compositions(name, channels, chosen):
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(2, 4, 33, dtype=torch.float64, generator=generator)
    numbers = [0.2 + torch.rand(n, dtype=torch.float64, generator=generator) for n in channels[: COUNTS[name]]]
    leaves = [one.to(chosen).requires_grad_() for one in (x, *numbers)]
    grad = torch.randn(x.shape, dtype=torch.float64, generator=generator).to(chosen).requires_grad_()

    def twice(call):
        y = call(name, *leaves)
        first = torch.autograd.grad(y, leaves, grad, create_graph=True)
        total = sum(g.square().sum() for g in first)
        return y, *first, *torch.autograd.grad(total, [*leaves, grad], allow_unused=True)

    for one, other in zip(twice(ours), twice(composed), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_of_any_types_the_inputs_is_kept(chosen):
    for wide in DTYPES:
        for narrow in DTYPES:
            x = torch.linspace(-3, 3, 24, device=chosen).to(wide).view(2, 4, 3).requires_grad_()
            p = torch.full((4,), 0.75, dtype=narrow, device=chosen, requires_grad=True)
            for name, count in COUNTS.items():
                y = ours(name, x, *[p] * count)
                y.sum().backward()
                exact = ours(name, x.detach().double(), *[p.detach().double()] * count)
                assert (y.dtype, x.grad.dtype, p.grad.dtype) == (wide, wide, narrow)
                floor = exact.square().mean().sqrt()
                assert accuracy.errors(y.detach(), exact, floor).max() <= accuracy.LIMITS[wide], (name, wide, narrow)


@pytest.mark.parametrize("inner", [3, 50, 40_000])
@pytest.mark.parametrize("name", COUNTS)
def test_gradients_of_parameters_are_the_same_bits_for_any_number_of_threads(name, inner):
    x = torch.randn(3, 4, inner, generator=torch.Generator().manual_seed(0)).requires_grad_()
    parameters = [torch.linspace(0.5, 1.5, 4).requires_grad_() for _ in range(COUNTS[name])]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(torch.autograd.grad(ours(name, x, *parameters).sin().sum(), parameters))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for later in found[1:] for one, other in zip(found[0], later, strict=True))


def xielu_in_full(x: float, p: float, n: float, eps: float) -> tuple[mp.mpf, ...]:
    """The value and the derivative, and how large the terms are of which each is the sum."""
    x, p, n, eps, beta = (mp.mpf(number) for number in (x, p, n, eps, 0.5))
    a, tail = mp.log1p(mp.exp(p)), mp.log1p(mp.exp(n))
    b, e = beta + tail, mp.exp(min(x, eps))
    if x > 0:
        return a * x * x + beta * x, 2 * a * x + beta, 0, 0
    share = 1 if x < eps else mp.mpf(1) / 2 if x == eps else 0
    return b * (e - 1 - x) + beta * x, b * (share * e - 1) + beta, max(b * (1 - e), -tail * x), max(b * e, tail)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize("n", [-1.0, -12.0, 3.0])
def test_the_tails_of_xielu_keep_their_digits(n, dtype, chosen):
    """Far below zero the terms of the definition cancel to softplus(n) |x|; but for its roots, nothing may be lost."""
    size = torch.logspace(-12, 4, 400, dtype=torch.float64)
    x = torch.cat([-size, size, torch.tensor([-1e-6, -0.0, -1.0, -0.34])]).to(dtype).to(chosen).requires_grad_()
    p, n_ = (torch.tensor([number], dtype=dtype, device=chosen) for number in (0.3, n))
    y = F.xielu(x, p, n_)
    (slope,) = torch.autograd.grad(y.sum(), x)
    numbers = p.item(), n_.item(), torch.tensor(-1e-6, dtype=dtype).item()
    with mp.workdps(40):
        exact = [[float(number) for number in xielu_in_full(v, *numbers)] for v in x.tolist()]
    value, d1, of_value, of_d1 = torch.tensor(exact, dtype=torch.float64).T
    for got, truth, terms in ((y.detach(), value, of_value), (slope, d1, of_d1)):
        assert accuracy.errors(got.cpu(), truth, 0.25 * terms).max() <= accuracy.LIMITS[dtype]


def test_xielu_has_the_papers_form_without_eps(chosen):
    x = torch.tensor([-1e-7, 0.0], dtype=torch.float64, device=chosen, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64, device=chosen)
    held, plain = (torch.autograd.grad(F.xielu(x, one, one, eps=eps).sum(), x)[0] for eps in (-1e-6, 0.0))
    softplus = math.log1p(math.e)
    torch.testing.assert_close(held.cpu(), torch.full((2,), -softplus, dtype=torch.float64))
    torch.testing.assert_close(plain.cpu(), torch.full((2,), 0.5, dtype=torch.float64), rtol=1e-6, atol=0)


def test_infinities_of_xielu_and_dyt(chosen):
    x = torch.tensor([[math.inf, -math.inf, math.nan]], device=chosen, requires_grad=True)
    p = torch.ones(1, device=chosen, requires_grad=True)
    y = F.xielu(x, p, p)
    assert y[0, :2].tolist() == [math.inf] * 2 and y[0, 2].isnan()
    y = F.dyt(x, p, p, p)
    gradients = torch.autograd.grad(y[0, :2].sum(), (x, p))
    assert y[0, :2].tolist() == [2.0, 0.0] and y[0, 2].isnan() and gradients[0][0, :2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
def test_snake_keeps_its_phase_at_any_argument(dtype, chosen):
    """Among them arguments of more turns than a reduction takes, alone and beside small ones."""
    size = torch.tensor([0.0, 1e-30, 0.3, 1e3, 2.9e6, 3.1e6, 1e9, 1e15, 1e30], dtype=torch.float64)
    multiples = torch.pi / 2 * torch.arange(1, 60, dtype=torch.float64)
    x = torch.cat([size, -size, multiples, multiples * 1e4]).to(dtype)
    for alpha in (1.0, 0.7, 300.0):
        a, b = (torch.tensor([number], dtype=dtype, device=chosen) for number in (alpha, 1.0))
        for part in (x, x[:4], x[6:7]):
            leaf = part.to(chosen).requires_grad_()
            y = F.snake_beta(leaf, a, b)
            (slope,) = torch.autograd.grad(y.sum(), leaf)
            with mp.workdps(60):
                inverse, factor = 1 / (1 + mp.mpf("1e-9")), mp.mpf(a.item())
                exact = [
                    (float(v + mp.sin(factor * v) ** 2 * inverse), float(1 + factor * mp.sin(2 * factor * v) * inverse))
                    for v in map(mp.mpf, part.tolist())
                ]
            value, d1 = (torch.tensor(column, dtype=torch.float64) for column in zip(*exact, strict=True))
            assert accuracy.errors(y.detach().cpu(), value, 0.01 * part.double().abs()).max() <= accuracy.LIMITS[dtype]
            assert accuracy.errors(slope.cpu(), d1, alpha).max() <= accuracy.LIMITS[dtype]


def test_tails_of_dyts_gradient_keep_their_digits(chosen):
    """torch.tanh's gradient is 0 where 1 - tanh^2 rounds to it."""
    x = torch.linspace(-80, 80, 321, device=chosen).view(-1, 1).requires_grad_()
    alpha, one = torch.full((1,), 0.5, device=chosen), torch.ones(1, device=chosen)
    (slope,) = torch.autograd.grad(F.dyt(x, alpha, one, one).sum(), x)
    exact = 0.5 / torch.cosh(0.5 * x.detach().double()).square()
    assert accuracy.errors(slope, exact).max() <= 4


def test_the_root_of_a_learned_starrelu_keeps_its_digits(chosen):
    root = torch.tensor(0.7071068, device=chosen)
    x = torch.nextafter(root, root.new_tensor(9.0)).view(1)
    scale, bias = torch.tensor(0.8944, device=chosen), torch.tensor(-0.4472, device=chosen)
    exact = scale.double() * x.double().square() + bias.double()
    assert accuracy.errors(F.starrelu(x, scale, bias), exact).max() <= 4


def test_transformers_xielu_and_ours_are_one():
    activations = pytest.importorskip("transformers.activations")
    theirs = activations.XIELUActivation(alpha_p_init=0.9, alpha_n_init=0.7, beta=0.25, dtype=torch.float64)
    assert nn.XIELU(1000.0, 30.0).alpha_p.item() == 1000  # whose exponential overflows
    mine = nn.XIELU(dtype=torch.float64)
    mine.load_state_dict(theirs.state_dict())
    x = 4 * torch.randn(50, dtype=torch.float64)
    torch.testing.assert_close(mine(x), theirs(x), rtol=1e-12, atol=1e-14)
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    again = activations.XIELUActivation(dtype=torch.float64)
    again.load_state_dict(mine.state_dict())
    assert again.beta == 0.25 and mine.beta == 0.25


def test_timms_starrelu_and_ours_are_one():
    metaformer = pytest.importorskip("timm.models.metaformer")
    theirs, mine = metaformer.StarReLU(0.7, -0.2), nn.StarReLU(1.0, 0.0, learnable=True)
    mine.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 5)
    torch.testing.assert_close(mine(x), theirs(x))


@pytest.mark.parametrize("kind", [nn.Snake, nn.SnakeBeta])
def test_snakes_scales_may_be_logarithms(kind):
    x = torch.randn(2, 3, 7, requires_grad=True)
    plain, logarithmic = kind(3, alpha=2.0), kind(3, alpha_logscale=True)
    for parameter in logarithmic.parameters():
        torch.nn.init.constant_(parameter, math.log(2))
    torch.testing.assert_close(plain(x), logarithmic(x))
    for module in (plain, logarithmic):
        module(x).square().sum().backward()
    for one, other in zip(plain.parameters(), logarithmic.parameters(), strict=True):
        torch.testing.assert_close(other.grad, 2 * one.grad, rtol=1e-4, atol=1e-5)
    assert not any(p.requires_grad for p in kind(3, alpha_trainable=False).parameters())


def test_starrelu_takes_a_number_beside_a_tensor_and_writes_in_place():
    x, scale = torch.randn(4, 3), torch.full((3,), 0.5, requires_grad=True)
    expected = 0.5 * torch.relu(x) ** 2 - 1
    torch.testing.assert_close(F.starrelu(x, scale, -1.0), expected)
    torch.testing.assert_close(F.starrelu(x, 0.5, torch.tensor(-1.0)), expected)
    written = x.clone()
    assert F.starrelu_(written, scale, -1.0) is written
    torch.testing.assert_close(written, expected)


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
def test_channels_of_dyt_are_where_one_says(dim):
    x = torch.randn(4, 5, 6, requires_grad=True)
    weight, bias = torch.randn(x.shape[dim]), torch.randn(x.shape[dim])
    y = F.dyt(x, torch.tensor(0.5), weight, bias, dim)
    expected = (torch.tanh(0.5 * x.transpose(dim, -1)) * weight + bias).transpose(dim, -1)
    torch.testing.assert_close(y, expected)
    assert y.stride() == x.stride()
    assert F.dyt(torch.zeros(()), weight[:1], weight[:1], bias[:1]) == bias[0]
    torch.testing.assert_close(F.dyt(torch.ones(5), *[torch.ones(5)] * 3, 0), torch.tanh(torch.ones(5)) + 1)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda x, p: F.xielu(x, p[:2], p), ValueError, r"alpha_p of shape \(2,\).*3 \(dimension 1\)"),
        (lambda x, p: F.xielu(x, p.view(1, 3), p), ValueError, r"alpha_p.*\(1, 3\)"),
        (lambda x, p: F.xielu(x, p, 0.5), TypeError, "alpha_n"),
        (lambda x, p: F.xielu(x, p, p, beta=p), TypeError, "beta"),
        (lambda x, p: F.snake(x, p.int()), NotImplementedError, "int32"),
        (lambda x, p: F.snake_beta(x.long(), p, p), NotImplementedError, "int64"),
        (lambda x, p: F.starrelu(x, p, "1"), TypeError, "bias_value"),
        (lambda x, p: F.dyt(x, p, p, p), ValueError, r"4 \(dimension 2\)"),
        (lambda x, p: F.dyt(x, p, p, p, dim=3), IndexError, "dim is 3"),
        (lambda x, p: nn.XIELU(alpha_n_init=0.5), ValueError, "alpha_n_init=0.5"),
        (lambda x, p: F.dyt(x, *[torch.ones(1)] * 3, dim="a"), TypeError, "dim must be an int, got str"),
        (lambda x, p: nn.StarReLU(num_parameters=3), ValueError, "learnable=True"),
        (lambda x, p: nn.StarReLU(learnable=True, saving="input"), ValueError, "input"),
    ],
)
def test_bad_arguments_are_named(call, error, says):
    with pytest.raises(error, match=says):
        call(torch.randn(2, 3, 4), torch.ones(3))


def test_jagged_tensors_are_computed_row_by_row():
    rows = [torch.randn(3, 4), torch.randn(5, 4)]
    x = torch.nested.nested_tensor(rows, layout=torch.jagged, requires_grad=True)
    p, each = torch.full((1,), 0.75, requires_grad=True), torch.linspace(0.5, 1, 4, requires_grad=True)
    calls = {
        "prelu": lambda v: F.prelu(v, p),
        "xielu": lambda v: F.xielu(v, p, p),
        "snake": lambda v: F.snake(v, p),
        "starrelu": lambda v: F.starrelu(v, p, p),
        "dyt": lambda v: F.dyt(v, p, each, each),
    }
    for name, call in calls.items():
        y = call(x)
        assert y.shape == x.shape, name
        for one, row in zip(y.unbind(), rows, strict=True):
            torch.testing.assert_close(one, call(row))
        found = torch.autograd.grad(y.values().sum(), p)
        expected = torch.autograd.grad(sum(call(row).sum() for row in rows), p)
        torch.testing.assert_close(found, expected)


def test_a_parameter_of_another_device_is_named():
    with pytest.raises(RuntimeError, match="one device"):
        F.snake(torch.randn(2, 3, device=DEVICE), torch.ones(3, device="meta"))


def test_recomputing_keeps_no_output():
    x = torch.randn(8, 16, requires_grad=True)
    weight = torch.randn(16, 16, requires_grad=True)
    p = torch.ones(1, requires_grad=True)

    def loss():
        return torch.nn.functional.linear(F.dyt(x, p, p, p), weight).sin().sum()

    expected = torch.autograd.grad(loss(), (x, weight, p))
    with nnkernels.saving("recompute"):
        found = torch.autograd.grad(loss(), (x, weight, p))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
