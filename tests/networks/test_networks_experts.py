"""What ANFIS and mixtures of experts promise: shares that sum to 1, and experts that divide the work."""

from __future__ import annotations

import pytest
import torch

from nnkernels.networks.anfis import ANFIS
from nnkernels.networks.modular import Modular


def samples(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_bell_is_jangs():
    x = samples(50, 2)
    model = ANFIS(3).fit(x, x.sum(1))
    scaled = ((x - model.low) / model.span)[:, :, None]
    bell = 1 / (1 + ((scaled - model.center) / model.width).abs() ** (2 * model.slope))
    torch.testing.assert_close(model.bells(x).exp(), bell, rtol=1e-4, atol=1e-4)


def test_rules_are_products_of_bells_and_their_shares_sum_to_1():
    x = samples(50, 2)
    model = ANFIS(3).fit(x, x.sum(1))
    first, second = model.bells(x).exp().unbind(1)
    product = (first[:, :, None] * second[:, None, :]).flatten(1)
    torch.testing.assert_close(model.strengths(x), product / product.sum(1, keepdim=True))
    assert model.strengths(x).shape == (50, 9)


def test_the_bells_learn_beside_the_lines():
    x = 6 * samples(300, 1) - 3
    y = torch.tanh(8 * x[:, 0])
    before, after = (ANFIS(3, epochs=epochs).fit(x, y) for epochs in (0, 200))
    assert (1 - after.score(x, y)) < (1 - before.score(x, y)) / 2
    assert not torch.equal(before.center, after.center)


def test_a_plane_is_found_at_once():
    x = samples(60, 2)
    y = x @ torch.tensor([2.0, -1.0], dtype=torch.float64) + 3
    assert ANFIS(epochs=0).fit(x, y).score(x, y) > 0.9999


def test_more_rules_than_can_be_are_refused():
    with pytest.raises(ValueError, match=r"2 \*\* 13 = 8192.*4096"):
        ANFIS().fit(samples(20, 13), samples(20))
    with pytest.raises(ValueError, match="at least 2 memberships of each feature, got 1"):
        ANFIS(1).fit(samples(20, 2), samples(20))


def mixture(**options: int) -> Modular:
    torch.manual_seed(0)
    return Modular((5,), 3, width=8, **options).double()


def test_the_answer_is_the_experts_weighed_by_the_gate():
    network, x = mixture(), samples(7, 5)
    expected = sum(network.gates(x)[:, [at]] * expert(x) for at, expert in enumerate(network.experts))
    torch.testing.assert_close(network(x), expected)
    torch.testing.assert_close(network.gates(x).sum(1), torch.ones(7).double())


def test_who_answers_best_learns_most():
    """The gradient of each expert's error is its share in the mixture's likelihood, after the answer is known."""
    network, x, y = mixture(experts=2), samples(7, 5), torch.arange(7) % 3
    network.competition(x, y).backward()
    scores, answers = network.parts(x)
    likely = scores.softmax(1) * answers.softmax(2)[torch.arange(7), :, y]
    share = likely / likely.sum(1, keepdim=True)
    wrong = answers.softmax(2) - torch.nn.functional.one_hot(y, 3)[:, None]
    for at, expert in enumerate(network.experts):
        torch.testing.assert_close(expert[-1].bias.grad, (share[:, [at]] * wrong[:, at]).mean(0))


def test_only_the_context_is_seen_by_the_gate_and_not_by_the_experts():
    network, x = mixture(context=2), samples(7, 5)
    torch.nn.init.normal_(network.gate.weight)
    other = torch.cat([x[:, :3] + 1, x[:, 3:]], 1)
    marked = torch.cat([x[:, :3], x[:, 3:] + torch.tensor([1.0, -1.0])], 1)
    torch.testing.assert_close(network.gates(other), network.gates(x))
    assert not torch.allclose(network.gates(marked), network.gates(x))
    torch.testing.assert_close(network.parts(marked)[1], network.parts(x)[1])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="less than the 5 numbers of an input, got 5"):
        mixture(context=5)
    with pytest.raises(ValueError, match=r"\(batch, 5\), got \(7, 4\)"):
        mixture()(samples(7, 4))
