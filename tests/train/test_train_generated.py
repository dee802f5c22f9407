"""Data made by a formula."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch

from nnkernels.train import generated
from nnkernels.train.datasets import named

SIZES = {
    "mnist1d": (4000, 1000, (40, 1), 10),
    "xor": (200, 200, (2,), 2),
    "spiral": (1000, 1000, (2,), 2),
    "adding": (20_000, 2_000, (12, 2), 1),
    "mackey_glass": (3191, 797, (12, 1), 1),
    "lorenz": (3191, 797, (12, 3), 3),
}


@pytest.mark.parametrize("name", SIZES)
def test_it_is_the_same_each_time_and_leaves_others_generators_alone(name):
    if name == "mnist1d":
        pytest.importorskip("mnist1d")
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    data, again = named(name, 12), named(name, 12)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    found = len(data.train), len(data.held), data.problem.shape, data.problem.outputs
    assert found == SIZES[name]
    for part, other in ((data.train, again.train), (data.held, again.held)):
        assert torch.equal(part.inputs, other.inputs) and torch.equal(part.targets, other.targets)
    assert not torch.equal(data.train.inputs[:200], data.held.inputs[:200])


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mnist1d.data", None)
    monkeypatch.setitem(sys.modules, "mnist1d", None)
    with pytest.raises(RuntimeError, match=r"needs mnist1d; run: pip install 'nnkernels\[networks\]'"):
        named("mnist1d")


def test_who_says_the_mean_errs_by_a_sixth_in_the_adding_task():
    x, y = generated.adding(20, 20_000)
    assert (y - 1).square().mean().item() == pytest.approx(1 / 6, rel=0.03)
    assert torch.equal(x[..., 1].sum(1), torch.full((20_000,), 2.0))
    assert torch.equal(x[:, :10, 1].sum(1), torch.ones(20_000))
    torch.testing.assert_close((x[..., 0] * x[..., 1]).sum(1, keepdim=True), y)


def test_the_copy_task_shows_what_is_to_be_said_first():
    x, y = generated.copying(5, 7, bits=3)
    assert x.shape == (7, 11, 4) and y.shape == (7, 5, 3)
    assert torch.equal(x[:, :5, :3], y) and (x[:, 5, 3] == 1).all() and (x[:, 6:] == 0).all()


def test_mackey_glass_obeys_its_equation():
    """A fixed point of the equation without delay is 1; and the series stays on its attractor."""
    series = generated.mackey_glass(3_000)
    assert 0.2 < series.min() < 0.6 and 1.2 < series.max() < 1.5 and abs(series.mean() - 0.9) < 0.05
    torch.testing.assert_close(generated.mackey_glass(100), series[:100])
    still = generated.mackey_glass(50, delay=1, washout=2_000)
    torch.testing.assert_close(still, torch.ones(50, dtype=torch.float64), rtol=0, atol=1e-6)


def test_lorenz_steps_are_of_fourth_order():
    coarse, fine, finest = (generated.lorenz(20 * cut, step=0.005 / cut, washout=0) for cut in (1, 2, 8))
    first, second = (coarse - finest[7::8]).norm(), (fine[1::2] - finest[7::8]).norm()
    assert 14 < first / second < 18  # 2^4


def test_a_forecast_is_of_what_comes_after_the_window():
    inputs, targets = generated.forecast(torch.arange(10.0), window=3, ahead=2)
    assert inputs.shape == (6, 3, 1) and inputs[0].flatten().tolist() == [0, 1, 2] and targets[0].item() == 4
    assert targets[-1].item() == 9


def test_opposite_corners_are_alike():
    x, y = generated.xor(10, noise=0.0)
    assert torch.equal(y, (x[:, 0] != x[:, 1]).long()) and y.float().mean() == 0.5
