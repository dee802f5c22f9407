"""What the papers of perceptron, Hopfield, SOM, ELM, RBF and ESN promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnkernels.networks.elm import ELMClassifier, ELMRegressor
from nnkernels.networks.esn import ESN
from nnkernels.networks.hopfield import Hopfield
from nnkernels.networks.perceptron import Perceptron
from nnkernels.networks.rbf import RBFRegressor, k_means
from nnkernels.networks.readout import ridge
from nnkernels.networks.som import SOM
from nnkernels.train.generated import mackey_glass


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_perceptron_ends_when_planes_part_the_classes():
    x = random(100, 3)
    x = x[x[:, 0].abs() > 0.3]
    parted = Perceptron(epochs=100).fit(x, x[:, 0] > 0)
    assert parted.epochs_ < 100 and parted.score(x, x[:, 0] > 0) == 1
    assert Perceptron(epochs=30).fit(x, (x[:, 0] > 0) ^ (x[:, 1] > 0)).epochs_ == 30


@pytest.mark.parametrize("shape", [(40, 5), (5, 40)])
@pytest.mark.parametrize("penalty", [0.0, 0.1, 10.0])
def test_the_readout_is_a_minimum(shape, penalty):
    x, y = random(*shape), random(shape[0], 2, seed=1)
    weight, bias = (one.requires_grad_() for one in ridge(x, y, penalty))
    loss = (x @ weight + bias - y).square().sum() + penalty * weight.square().sum()
    for slope in torch.autograd.grad(loss, (weight, bias)):
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-9)


def test_a_negative_penalty_is_refused():
    with pytest.raises(ValueError, match="at least 0, got -1"):
        ELMRegressor(penalty=-1.0).fit(random(9, 2), random(9))


def test_k_means_finds_clusters_and_bears_equal_samples():
    places = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]], dtype=torch.float64)
    x = places.repeat(20, 1) + 0.1 * random(60, 2)
    centers = k_means(x, 3, torch.Generator().manual_seed(0))
    assert (torch.cdist(places, centers).amin(1) < 0.2).all()
    assert torch.equal(k_means(torch.ones(5, 2), 3, torch.Generator()), torch.ones(3, 2))


def test_an_interpolation_goes_through_its_samples():
    x = torch.linspace(0, 1, 12, dtype=torch.float64)[:, None]
    y = random(12)
    np.testing.assert_allclose(RBFRegressor(width=0.3, penalty=0.0).fit(x, y).predict(x), y.numpy(), atol=1e-6)
    with pytest.raises(ValueError, match="greater than 0, got 0"):
        RBFRegressor(width=0.0).fit(x, y)


def test_as_many_random_units_as_samples_learn_anything_by_heart():
    x, y = random(50, 4), np.arange(50) % 3
    assert ELMClassifier(hidden=200, penalty=1e-9).fit(x, y).score(x, y) == 1


@pytest.mark.parametrize("rule", ["hebbian", "pseudo_inverse", "modern"])
def test_recalling_never_raises_the_energy(rule):
    patterns = random(8, 100).sign()
    network = Hopfield(rule, beta=0.2, steps=1).fit(patterns)
    state = random(20, 100, seed=1).sign()
    for _ in range(4):
        after = network(state)
        assert (network.energy(after) <= network.energy(state) + 1e-9).all()
        state = after


def test_hopfield_refuses_what_is_no_sign_and_unknown_rules():
    with pytest.raises(ValueError, match=r"-1 and 1 alone, got 0\.5"):
        Hopfield("hebbian").fit(torch.full((3, 4), 0.5))
    with pytest.raises(ValueError, match=r"hebian.*hebbian"):
        Hopfield("hebian").fit(torch.ones(3, 4))


def test_correlated_patterns_need_the_pseudo_inverse():
    patterns = (random(20, 100) + 1).sign()
    assert Hopfield("hebbian").fit(patterns).score(patterns) < 0.2
    assert Hopfield("pseudo_inverse").fit(patterns).score(patterns) == 1


def test_neighbours_on_the_map_stand_for_what_is_alike():
    x = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
    som = SOM(8, 8).fit(x)
    far = (x - x.mean(0)).norm(dim=1).mean().item()
    assert som.quantisation_error(x) < far / 5 and som.topographic_error(x) < 0.1
    units = som.weight.view(8, 8, 2)
    beside = (units[1:] - units[:-1]).norm(dim=2).mean()
    across = torch.cdist(som.weight, som.weight).mean()
    assert beside < across / 2


def test_echoes_fade():
    """Two states that began apart become one, as the echo state property demands."""
    series = mackey_glass(600)[:, None]
    esn = ESN(units=100).fit(series[:-1], series[1:])
    state, other = random(100, seed=1), random(100, seed=2)
    for value in series[:200]:
        state, other = esn.step(value, state), esn.step(value, other)
    torch.testing.assert_close(state, other, rtol=0, atol=1e-6)


def test_a_leak_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"\(0, 1\], got 1\.5"):
        ESN(leak=1.5).fit(random(20, 1), random(20))
