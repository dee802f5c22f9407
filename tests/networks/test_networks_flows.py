"""What neural differential equations promise: exact steps, flows that do not cross, and torchdiffeq's interface."""

from __future__ import annotations

import pytest
import torch

from nnkernels.networks.ode import NeuralODE, Slope, runge_kutta
from nnkernels.networks.recipes.flows import line, turn, unturned


def model(features: int = 2, **options: int) -> NeuralODE:
    torch.manual_seed(0)
    made = NeuralODE(features, **options).double()
    torch.nn.init.normal_(made.slope.out.weight)
    return made


def states(count: int = 5, features: int = 2) -> torch.Tensor:
    return torch.randn(count, features, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_the_rule_is_of_the_fourth_order():
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def error(steps: int) -> float:
        found = runge_kutta(lambda t, y: y * t.cos(), torch.ones((), dtype=torch.float64), times, steps)[-1]
        return (found - times[1].sin().exp()).abs().item()

    assert error(4) / error(8) == pytest.approx(16, rel=0.2)


def test_a_flow_runs_back():
    one, start = model(steps=50), states()
    there = one.trajectory(start, torch.tensor([0.0, 1.0], dtype=torch.float64))[-1]
    back = one.trajectory(there, torch.tensor([1.0, 0.0], dtype=torch.float64))[-1]
    torch.testing.assert_close(back, start, rtol=0, atol=1e-7)


def test_a_flow_on_a_line_keeps_the_order_and_more_dimensions_do_not():
    x = torch.linspace(-2, 2, 50, dtype=torch.float64)[:, None]
    assert (model(1)(x).diff(dim=0) > 0).all()
    torch.manual_seed(0)
    free = NeuralODE(1, augment=1)
    turn(free, line(0))
    assert unturned(free, line(0)) < 0.01 and (free(line(0)).diff(dim=0) < 0).all()


def test_gradients_are_right():
    one = model(augment=1, steps=2)
    assert torch.autograd.gradcheck(one, states().requires_grad_())


def test_it_is_a_plain_module():
    one, x = model().float(), states().float()
    torch.testing.assert_close(torch.cat([one(part) for part in x.split(2)]), one(x))
    torch.testing.assert_close(torch.compile(one, backend="eager", fullgraph=True)(x), one(x))
    other = NeuralODE(2)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(x), one(x))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(one(x).float(), other(x), rtol=0.1, atol=0.1)


def test_torchdiffeq_solves_the_same_slope():
    torchdiffeq = pytest.importorskip("torchdiffeq")
    one, start, times = model(steps=20), states(), torch.linspace(0, 2, 5, dtype=torch.float64)
    theirs = torchdiffeq.odeint(one.slope, start, times, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one.trajectory(start, times), theirs, rtol=1e-6, atol=1e-6)
    torchdiffeq.odeint_adjoint(one.slope, start, times).sum().backward()
    assert all(parameter.grad is not None for parameter in one.slope.parameters())


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"\(batch, 2\), got \(5, 3\)"):
        NeuralODE(2)(torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"one at least, got \(0,\)"):
        runge_kutta(Slope(2), torch.zeros(2), torch.zeros(0))
    with pytest.raises(ValueError, match="at least 1 step between two times, got 0"):
        NeuralODE(2, steps=0)(torch.zeros(5, 2))
