"""What the papers of autoencoder, RBM, DBN and GAN promise."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("sklearn")

from sklearn.datasets import load_digits

from nnkernels.networks.autoencoder import Autoencoder
from nnkernels.networks.dbn import DBN
from nnkernels.networks.descending import descend
from nnkernels.networks.rbm import RBM


def test_a_loop_leads_to_the_minimum_and_its_seed_to_the_same_place():
    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    ends = []
    for seed in (1, 1, 2):
        mean = torch.zeros(3, requires_grad=True)
        descend([mean], lambda at, mean=mean: (x[at] - mean).square().sum(1).mean(), 100, epochs=100, lr=0.1, seed=seed)
        ends.append(mean.detach())
    torch.testing.assert_close(ends[0], x.mean(0), rtol=0, atol=0.03)
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


def test_an_autoencoder_finds_a_curve_that_no_plane_holds():
    """Points on an arc are one number each; the best line through them loses a third."""
    angle = torch.linspace(0.0, 4.0, 200)
    x = 0.5 + 0.4 * torch.stack([angle.cos(), angle.sin()], 1)
    torch.manual_seed(0)
    network = Autoencoder((2,), code=1, width=64)
    descend(network.parameters(), lambda at: (network(x[at]) - x[at]).square().mean(), 200, epochs=150, lr=1e-2)
    line = torch.linalg.svdvals(x - x.mean(0))[1].square() / x.numel()
    assert (network(x) - x).square().mean() < line / 10


def test_an_autoencoder_says_which_shape_it_wants():
    network = Autoencoder((1, 8, 8), code=2)
    with pytest.raises(ValueError, match=r"Autoencoder takes the shape \(batch, 1, 8, 8\), got \(3, 64\)"):
        network(torch.rand(3, 64))
    with pytest.raises(ValueError, match=r"decoder takes the shape \(batch, 2\), got \(3, 4\)"):
        network.decode(torch.rand(3, 4))


def bars() -> torch.Tensor:
    """One of the four rows, or of the four columns, of 4 x 4 pixels."""
    pictures = torch.zeros(8, 4, 4)
    for at in range(4):
        pictures[at, at], pictures[4 + at, :, at] = 1, 1
    return pictures.flatten(1)


def every_picture(count: int) -> torch.Tensor:
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * count)


def test_the_free_energy_is_that_of_all_states_of_the_hidden_units():
    draw = torch.Generator().manual_seed(0)
    rbm = RBM(3, "bernoulli").fit(every_picture(4))
    for name in ("weight", "bias", "offset"):
        getattr(rbm, name).normal_(generator=draw)
    x, hidden = every_picture(4), every_picture(3)
    energy = -(hidden @ rbm.weight @ x.T + (hidden @ rbm.bias)[:, None] + x @ rbm.offset)
    torch.testing.assert_close(rbm.free_energy(x), -torch.logsumexp(-energy, 0))


def test_contrastive_divergence_makes_likely_what_it_is_shown():
    """Of all 65,536 pictures, the eight bars get most of the probability; before, an eight-thousandth."""
    rbm = RBM(16, "bernoulli", epochs=200, lr=0.2, batch=8, seed=0).fit(bars().repeat(20, 1))
    likely = torch.softmax(-rbm.free_energy(torch.cat([bars(), every_picture(16)])).double(), 0)
    assert likely[:8].sum() / likely[8:].sum() > 0.5
    assert rbm.score(bars()) > -0.01


def test_a_dream_is_drawn_with_the_units_probabilities():
    draws = torch.Generator().manual_seed(0)
    likely = torch.tensor([0.0, 0.2, 0.7, 1.0])
    drawn = RBM.drawn(likely.repeat(20_000, 1), draws)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), likely, rtol=0, atol=0.01)


@pytest.mark.parametrize("ask", [RBM(4, "bernoulli").fit, RBM(4, "bernoulli").fit(bars()).predict])
def test_a_bernoulli_unit_takes_no_other_numbers(ask):
    with pytest.raises(ValueError, match=r"from 0 to 1, got 1\.5"):
        ask(bars() * 1.5)
    with pytest.raises(ValueError, match=r"bernouli.*bernoulli"):
        RBM(4, "bernouli").fit(bars())


def test_unlabelled_samples_make_a_belief_network_better():
    x, y = (torch.from_numpy(one) for one in load_digits(return_X_y=True))
    x = x.float() / 16
    few, held = slice(0, 60), slice(1000, None)
    network = DBN((128,), "bernoulli", epochs=20, lr=0.1)
    alone = network.fit(x[few], y[few]).score(x[held], y[held])
    assert network.fit(x[few], y[few], unlabelled=x[:1000]).score(x[held], y[held]) > alone + 0.02
    with pytest.raises(ValueError, match=r"unlabelled takes the shape \(samples, 64\), got \(9, 63\)"):
        network.fit(x[few], y[few], unlabelled=x[:9, 1:])


MODULES = {"autoencoder": (lambda: Autoencoder((1, 8, 8), code=2), (torch.rand(5, 1, 8, 8),))}


@pytest.mark.parametrize("name", MODULES)
def test_a_network_is_a_plain_module(name):
    """Batches of any size, autocast, torch.compile as one graph, and a state that makes another the same."""
    make, given = MODULES[name]
    torch.manual_seed(0)
    network, other = make().eval(), make().eval()
    whole = network(*given)
    torch.testing.assert_close(network(*(one[:2] for one in given)), whole[:2])
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other(*given), whole)
    torch.testing.assert_close(torch.compile(network, backend="eager", fullgraph=True)(*given), whole)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(network(*given).float(), whole, rtol=0.1, atol=0.1)
