"""What the papers of autoencoder, RBM, DBN, Siamese network, GAN, deep ensemble and capsules promise."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("sklearn")

from sklearn.datasets import load_digits

import nnkernels.functional as F
from nnkernels.networks.autoencoder import Autoencoder
from nnkernels.networks.capsule import Capsule
from nnkernels.networks.dbn import DBN
from nnkernels.networks.descending import descend
from nnkernels.networks.ensemble import Ensemble
from nnkernels.networks.gan import GAN
from nnkernels.networks.mlp import MLP
from nnkernels.networks.rbm import RBM
from nnkernels.networks.siamese import Siamese, contrastive


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


def test_dreams_are_drawn_with_the_hidden_units_probabilities():
    """Of steps of one dream: on average, the weights move by what the hidden units' states give, weighed by how likely
    they are."""
    torch.manual_seed(0)
    rbm = RBM(2, "bernoulli", epochs=1).fit(every_picture(3))
    for name in ("weight", "bias", "offset"):
        getattr(rbm, name).normal_()
    x, states = torch.tensor([[1.0, 0.0, 1.0]]), every_picture(2)
    likely = torch.where(states == 1, rbm(x), 1 - rbm(x)).prod(1)
    dreamt = rbm.given(states)
    expected = rbm(x).T @ x - (likely[:, None] * rbm(dreamt)).T @ dreamt
    found = rbm._slopes(x.expand(40_000, -1))[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01)


def test_fitting_follows_its_seed_and_leaves_torchs_numbers_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, other = (RBM(4, "bernoulli", epochs=2, seed=seed).fit(bars()).weight for seed in (3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(RBM(4, "bernoulli", epochs=2, seed=3).fit(bars()).weight, one)
    assert not torch.equal(one, other)


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


def test_twins_share_their_weights_and_know_no_order():
    torch.manual_seed(0)
    network = Siamese(MLP((8,), 4))
    one, other = torch.randn(2, 5, 8)
    torch.testing.assert_close(network(one, other), network(other, one))
    assert torch.equal(network(one, one), torch.zeros(5))
    assert (network(one, other) <= 2).all()
    with pytest.raises(ValueError, match=r"second input.*\(5, 8\), got \(4, 8\)"):
        network(one, other[:4])


def test_the_contrastive_loss_draws_together_and_pushes_to_the_margin():
    distance = torch.tensor([0.5, 0.5, 1.5], requires_grad=True)
    contrastive(distance, torch.tensor([True, False, False])).backward()
    assert distance.grad[0] > 0 and distance.grad[1] < 0 and distance.grad[2] == 0


def test_each_player_of_a_gan_is_moved_by_its_own_part_alone():
    torch.manual_seed(0)
    network, x, classes = GAN((3,), 2, noise=4, penalty=0.0), torch.rand(16, 3), torch.arange(16) % 2
    torch.manual_seed(1)
    network.loss(x, classes).backward()
    torch.manual_seed(1)
    drawn, softplus = network.draw(classes), torch.nn.functional.softplus
    theirs = (softplus(-network.judge(x, classes)) + softplus(network.judge(drawn.detach(), classes))).mean()
    for player, loss in (
        (network.discriminator, theirs),
        (network.generator, softplus(-network.judge(drawn, classes)).mean()),
    ):
        wanted = torch.autograd.grad(loss, list(player.parameters()))
        for parameter, slope in zip(player.parameters(), wanted, strict=True):
            torch.testing.assert_close(parameter.grad, slope)


def test_a_gan_draws_as_its_samples_are_spread():
    """Two classes of one number each: what is drawn has their means, and is not all the same."""
    torch.manual_seed(0)
    classes = torch.arange(400) % 2
    x = 0.3 + 0.4 * classes[:, None] + 0.05 * torch.randn(400, 1)
    network = GAN((1,), 2, noise=4, width=32, penalty=0.1)
    descend(network.parameters(), lambda at: network.loss(x[at], classes[at]), 400, epochs=60, betas=(0.5, 0.999))
    for one in (0, 1):
        drawn = network.draw(torch.full((500,), one))
        assert abs(drawn.mean() - (0.3 + 0.4 * one)) < 0.06 and drawn.std() > 0.015


def test_a_gan_refuses_classes_that_there_are_not():
    with pytest.raises(ValueError, match="0 to 9, got 10"):
        GAN((64,), 10).draw(torch.tensor([3, 10]))
    with pytest.raises(ValueError, match=r"discriminator takes the shape \(batch, 64\), got \(2, 63\)"):
        GAN((64,), 10).judge(torch.rand(2, 63), torch.tensor([3, 4]))


def test_an_ensemble_is_the_mean_of_probabilities_and_copies_agree():
    torch.manual_seed(0)
    network, x = Ensemble(MLP((6,), 3) for _ in range(4)), torch.randn(9, 6)
    mean = torch.stack([member(x).softmax(1) for member in network.members]).mean(0)
    torch.testing.assert_close(network(x).exp(), mean)
    assert (network.disagreement(x) > 1e-4).all()
    for member in network.members:
        member.load_state_dict(network.members[0].state_dict())
    torch.testing.assert_close(network.disagreement(x), torch.zeros(9), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="at least 1 member, got 0"):
        Ensemble([])


def test_an_ensemble_is_never_more_surprised_than_its_members_in_the_mean():
    """Jensen's inequality, whatever the members say."""
    torch.manual_seed(0)
    network, x, classes = Ensemble(MLP((6,), 3) for _ in range(4)), 3 * torch.randn(50, 6), torch.arange(50) % 3
    alone = [torch.nn.functional.cross_entropy(member(x), classes, reduction="none") for member in network.members]
    whole = torch.nn.functional.cross_entropy(network(x), classes, reduction="none")
    assert (whole <= torch.stack(alone).mean(0) + 1e-6).all()


def test_squash_keeps_directions_and_has_a_slope_at_zero():
    x = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    length, after = x.norm(dim=1), F.squash(x)
    torch.testing.assert_close(after.norm(dim=1), length**2 / (1 + length**2))
    torch.testing.assert_close(after / after.norm(dim=1, keepdim=True), x / length[:, None])
    assert torch.autograd.gradcheck(F.squash, x.requires_grad_())
    zero = torch.zeros(2, 3, requires_grad=True)
    F.squash(zero).sum().backward()
    torch.testing.assert_close(zero.grad, torch.zeros(2, 3), rtol=0, atol=1e-12)


def test_routing_sends_votes_where_others_agree():
    """Of six voters, all agree on the first capsule above and contradict each other on the second."""
    votes = torch.zeros(1, 6, 2, 4)
    votes[0, :, 0, 0] = 1
    votes[0, :, 1, 0] = torch.tensor([1.0, -1.0] * 3)
    once, thrice = (F.route(votes, rounds).norm(dim=-1)[0] for rounds in (1, 3))
    assert thrice[0] > once[0] > thrice[1]


def test_capsules_say_what_they_want():
    with pytest.raises(ValueError, match=r"13 pixels a side, got 12 x 28"):
        Capsule((1, 12, 28), 10)
    with pytest.raises(ValueError, match="multiple of 8, got 20"):
        Capsule((1, 28, 28), 10, width=20)
    with pytest.raises(ValueError, match=r"\(batch, 1, 28, 28\), got \(2, 1, 28, 27\)"):
        Capsule((1, 28, 28), 10)(torch.zeros(2, 1, 28, 27))


MODULES = {
    "autoencoder": (lambda: Autoencoder((1, 8, 8), code=2), (torch.rand(5, 1, 8, 8),)),
    "siamese": (lambda: Siamese(MLP((8,), 4)), (torch.rand(5, 8), torch.rand(5, 8))),
    "gan": (lambda: GAN((8,), 3, noise=4), (torch.randn(5, 4), torch.arange(5) % 3)),
    "ensemble": (lambda: Ensemble(MLP((8,), 4) for _ in range(3)), (torch.randn(5, 8),)),
    "capsule": (lambda: Capsule((1, 16, 16), 4, width=16), (torch.rand(5, 1, 16, 16),)),
}


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
