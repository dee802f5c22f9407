"""What spiking neurons promise: they leak, add, fire and reset, and gradients pass the step by a surrogate."""

from __future__ import annotations

import pytest
import torch

from nnkernels.contracts.spiking import RESETS
from nnkernels.functional import lif
from nnkernels.networks.spiking import Spiking
from nnkernels.reference.spiking import SURROGATES


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_neuron_fires_at_the_rate_of_its_current():
    current = torch.linspace(0.0, 0.95, 20).expand(1000, 20)
    torch.testing.assert_close(lif(current, decay=1.0).mean(0), current[0], rtol=0, atol=2e-3)


def test_a_neuron_that_leaks_never_fires_below_its_threshold():
    decay, weak = 0.8, 0.19
    assert lif(torch.full((500,), weak), decay=decay).sum() == 0  # it tends to weak / (1 - decay) = 0.95
    assert lif(torch.full((500,), 0.21), decay=decay).sum() > 0


@pytest.mark.parametrize(("reset", "spikes"), [("subtract", [1, 1, 1, 0]), ("zero", [1, 0, 0, 0])])
def test_a_reset_keeps_or_forgets_what_is_above_the_threshold(reset, spikes):
    assert lif(torch.tensor([3.5, 0.0, 0.0, 0.0]), decay=1.0, reset=reset).tolist() == spikes


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_the_gradient_is_the_surrogates(surrogate):
    current = random(1, 50).requires_grad_()
    lif(current, surrogate=surrogate, slope=3.0, threshold=0.5).sum().backward()
    torch.testing.assert_close(current.grad, SURROGATES[surrogate](3.0 * (current.detach() - 0.5)))


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_a_surrogate_is_a_bump_around_the_threshold(surrogate):
    z = torch.arange(-500, 501, dtype=torch.float64) / 64
    value = SURROGATES[surrogate](z)
    assert value[500] == 1 and (value >= 0).all() and torch.allclose(value, value.flip(0))
    assert (value[500:].diff() <= 0).all()


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("detach_reset", [True, False])
def test_gradients_through_time_are_those_of_the_equations(reset, detach_reset):
    current, decay = random(4, 6).requires_grad_(), 0.7
    spikes = lif(current, decay=decay, reset=reset, detach_reset=detach_reset)
    weight = random(4, 6, seed=1)
    (spikes * weight).sum().backward()
    potential, potentials, fired = torch.zeros(6, dtype=torch.float64), [], torch.zeros(6, dtype=torch.float64)
    for one in current.detach():
        potential = decay * potential + one - fired if reset == "subtract" else decay * potential * (1 - fired) + one
        fired = (potential > 1).double()
        potentials.append(potential)
    assert torch.equal(spikes, torch.stack([(one > 1).double() for one in potentials]))
    expected, later = torch.zeros(4, 6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    for step in reversed(range(4)):  # later: d loss / d potential of the next step
        fired = (potentials[step] > 1).double()
        by_reset = -1.0 if reset == "subtract" else -decay * potentials[step]
        at_spike = weight[step] + (0 if detach_reset else later * by_reset)
        through = later * decay * (1 if reset == "subtract" else 1 - fired)
        later = at_spike * SURROGATES["fast_sigmoid"](5.0 * (potentials[step] - 1)) + through
        expected[step] = later
    torch.testing.assert_close(current.grad, expected)


@pytest.mark.parametrize("reset", RESETS)
def test_the_neurons_are_snntorchs(reset):
    snntorch = pytest.importorskip("snntorch")
    ours, theirs = (2 * random(12, 5, 7).float().requires_grad_() for _ in range(2))
    ours.retain_grad(), theirs.retain_grad()
    bump = snntorch.surrogate.fast_sigmoid(slope=5)
    neuron, potential, spikes = snntorch.Leaky(beta=0.9, spike_grad=bump, reset_mechanism=reset), torch.zeros(5, 7), []
    for one in theirs:
        spike, potential = neuron(one, potential)
        spikes.append(spike)
    found = lif(ours, reset=reset)
    assert torch.equal(found, torch.stack(spikes))
    found.sum().backward()
    torch.stack(spikes).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_spikes_are_read_by_their_rates_and_are_as_many_as_steps():
    torch.manual_seed(0)
    network, x = Spiking((5,), 3, width=16, steps=9, reset="zero"), torch.randn(4, 5)
    first, second = network.spikes(x)
    assert first.shape == second.shape == (9, 4, 16) and set(second.unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(network(x), network.head(second.mean(0)))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"\[0, 1\], got 1\.5"):
        lif(torch.ones(3), decay=1.5)
    with pytest.raises(ValueError, match=r"one step at least, got \(0, 3\)"):
        lif(torch.ones(0, 3))
    with pytest.raises(ValueError, match=r"triangle.*triangular"):
        lif(torch.ones(3), surrogate="triangle")
    with pytest.raises(ValueError, match=r"hard.*zero"):
        lif(torch.ones(3), reset="hard")
    with pytest.raises(ValueError, match=r"\(batch, 1, 8, 8\), got \(3, 64\)"):
        Spiking((1, 8, 8), 10)(torch.zeros(3, 64))


def test_double_precision_is_kept():
    assert lif(random(3, 2)).dtype == Spiking((2,), 1).double()(random(3, 2)).dtype == torch.float64
