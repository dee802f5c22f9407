"""The numbers of what is composed of torch's operations: under compilers, modes and transforms, tails included."""

from __future__ import annotations

from pathlib import Path

import compiled_table
import pytest
import torch
from conftest import DEVICE
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import nnkernels.functional as F
from nnkernels import accuracy, compiling, reference
from nnkernels.benchmark import ours
from nnkernels.registry import Activation, activation, catalogue

ROOT = Path(__file__).parents[2]
ZEROS = ("tanh", "elu", "celu", "selu", "silu", "swish", "gelu", "gelu_tanh", "gelu_sigmoid", "mish", "softsign")
TAILS = torch.tensor([-87.0, -60.0, -34.0, -20.0, -17.3, -9.0, -1e-6, 1e-6, 9.0, 20.0, 44.0, 80.0])
ALPHAS = {"elu": 1.7, "celu": 0.7}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield


def test_every_member_is_within_the_promise_over_the_whole_range():
    """One test for all, which starts its compiler once."""
    rows, x = catalogue(Activation), compiling.inputs(torch.float32).to(DEVICE)
    negative_zero = (x == 0) & x.signbit()
    told, wrong = compiled_table.told(), []
    for row, (y, slope) in zip(rows, compiling.run([ours(row) for row in rows], x), strict=True):
        found = compiling.judge(row, x, y, slope)
        if not found.ok:
            wrong.append(f"{row.name}: {found}")
        if row.name in ZEROS and not y[negative_zero].signbit().all():
            wrong.append(f"{row.name}(-0.0) is {y[negative_zero]}")
        if DEVICE == "cpu":
            page = told[row.name]
            if abs(page[0] - found.value.ulp) > 1 or abs(page[1] - found.d1.ulp) > 1:
                wrong.append(f"{row.name}: {found}; run: python tools/compiled_table.py")
    assert not wrong, "\n".join(wrong)


OTHER_TYPES = {torch.bfloat16: ("tanh", "selu", "mish", "gelu_tanh", "relu"), torch.float64: ("tanh", "gelu")}


@pytest.mark.parametrize("dtype", OTHER_TYPES, ids=lambda dtype: str(dtype)[6:])
def test_the_other_types_are_within_the_promise(dtype):
    rows, x = [activation(name) for name in OTHER_TYPES[dtype]], compiling.inputs(dtype).to(DEVICE)
    for row, (y, slope) in zip(rows, compiling.run([ours(row) for row in rows], x), strict=True):
        found = compiling.judge(row, x, y, slope)
        assert found.ok, f"{row.name}: {found}"


def test_the_page_tells_of_every_member():
    told, promise = compiled_table.told(), accuracy.COMPILED[torch.float32]
    assert list(told) == [row.name for row in catalogue(Activation)]
    assert all(value <= promise.value and d1 <= promise.d1 for value, d1 in told.values())


def composed(row, a, b, x, orders):
    """The value and its derivatives as autograd takes them of the operations, in `x`'s own type."""
    found, y = [], reference.FORMULAS[row.name].value(x, a, b)
    for _ in range(orders):
        found.append(y.detach())
        if not y.requires_grad:
            return [*found, torch.zeros_like(x)]
        (y,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
    return [*found, y.detach()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=lambda dtype: str(dtype)[6:])
def test_derivatives_of_the_operations(row, dtype):
    """What compilers see, without one; the second derivative to 6 digits, for |x| < 4 of 1/2 at least."""
    a, b = accuracy.constants_of(row)
    x = compiling.inputs(dtype)[::5].clone().requires_grad_()
    value, d1, d2 = composed(row, a, b, x, 2)
    found = compiling.judge(row, x.detach(), value, d1)
    assert found.ok, str(found)
    at = x.detach().double()
    exact = accuracy.truth_of(row, "d2", x.detach(), a, b)
    smooth = exact.isfinite() & (at != 0) & ((at.abs() - 3).abs() > 1e-6)
    size = exact.abs().maximum(torch.where(at.abs() < 4, 0.5, 2.0**-100))
    off = (d2.double() - exact).abs() / size
    assert off[smooth].max() <= (2.0**-19 if dtype == torch.float32 else 2.0**-47)


@pytest.mark.parametrize("name", ALPHAS)
def test_other_constants_keep_their_tails(name):
    row, alpha = activation(name), ALPHAS[name]
    x = compiling.inputs(torch.float32)[::7].clone().requires_grad_()
    value, d1 = composed(row, *reference.rounded(x, alpha, 0.0), x, 1)
    for got, order in ((value, "value"), (d1, "d1")):
        exact = accuracy.truth_of(row, order, x.detach(), alpha, 0.0)
        assert accuracy.errors(got, exact, 2.0**-120).max() <= 8, order


def slopes(function, x):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(function(leaf).sum(), leaf)[0]


SATURATING = ("sigmoid", "tanh", "elu", "celu", "selu", "softplus", "logsigmoid", "softsign", "mish", "gelu")


@pytest.mark.parametrize("name", SATURATING)
def test_modes_and_traces_keep_the_tails(name):
    row = activation(name)
    exact = accuracy.truth_of(row, "d1", TAILS, *accuracy.constants_of(row)).float()
    with FlopCounterMode(display=False):
        watched = slopes(ours(row), TAILS)
    traced = make_fx(lambda x: slopes(ours(row), x))(TAILS)(TAILS)
    for got in (watched, traced):
        torch.testing.assert_close(got, exact, rtol=1e-6, atol=0)


FORMS = {
    "gated": lambda name, x: F.gated(x, name, up=torch.ones_like(x)),
    "bias_act": lambda name, x: F.bias_act(x - 1, torch.ones(12), name),
    "layer_norm_act": lambda name, x: F.layer_norm_act(torch.zeros(12), 12, bias=x, activation=name),
    "rms_norm_act": lambda name, x: F.rms_norm_act(torch.zeros(12), 12, residual=x, activation=name),
}


@pytest.mark.parametrize("form", FORMS)
def test_compiled_forms_keep_the_tails(form):
    x = torch.where(TAILS.abs() < 1, 0.5, TAILS)  # what x - 1 + 1 gives exactly

    def every(x):
        return torch.stack([FORMS[form](name, x) for name in ("tanh", "elu", "selu")])

    compiled = torch.compile(every, fullgraph=True, backend="aot_eager")
    for i, name in enumerate(("tanh", "elu", "selu")):
        leaf = x.clone().requires_grad_()
        (got,) = torch.autograd.grad(compiled(leaf)[i].sum(), leaf)
        exact = accuracy.truth_of(activation(name), "d1", x, *accuracy.constants_of(activation(name))).float()
        torch.testing.assert_close(got, exact, rtol=2e-6, atol=0)


@pytest.mark.parametrize("name", ["snake", "snake_beta", "dyt", "softplus", "logsigmoid", "gelu", "mish"])
def test_nan_and_infinity_are_what_they_are_without_a_compiler(name):
    at = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e30, 0.5])
    parameters = {
        "snake": [torch.ones(1)],
        "snake_beta": [torch.ones(1), torch.ones(1)],
        "dyt": [torch.ones(()), torch.ones(1), torch.zeros(1)],
    }

    def f(x):
        return getattr(F, name)(x, *parameters.get(name, []))

    found, expected = ((of(at), slopes(of, at)) for of in (torch.compile(f, fullgraph=True, backend="aot_eager"), f))
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-5, atol=1e-6)
