"""What Chow & Liu promise: a distribution that sums to 1, and of all trees the best."""

from __future__ import annotations

import itertools
import math

import networkx
import pytest
import torch

from nnkernels.networks.chow_liu import ChowLiu, ChowLiuClassifier, spanning_tree


def chain(count: int, features: int = 5, kept: float = 0.9) -> torch.Tensor:
    """Each bit is the one before it, or now and then another."""
    generator = torch.Generator().manual_seed(0)
    columns = [torch.rand(count, generator=generator) < 0.5]
    for _ in range(features - 1):
        columns.append(columns[-1] ^ (torch.rand(count, generator=generator) > kept))
    return torch.stack(columns, 1).double()


def edges_of(parents: torch.Tensor) -> set[frozenset[int]]:
    return {frozenset((node, parent)) for node, parent in enumerate(parents.tolist()) if node != parent}


def test_the_tree_of_a_chain_is_the_chain():
    order = [3, 0, 4, 1, 2]
    found = edges_of(ChowLiu(None).fit(chain(4000)[:, order]).parents[0])
    assert found == {frozenset((order.index(at), order.index(at + 1))) for at in range(4)}


def test_all_that_may_be_sums_to_1():
    model = ChowLiu(None).fit(chain(200))
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=5)), dtype=torch.float64)
    assert model(every).exp().sum().item() == pytest.approx(1, abs=1e-3)


def test_the_tree_reaches_the_entropy_of_what_it_describes():
    entropy = math.log(2) - 4 * (0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert ChowLiu(None).fit(chain(20_000)).score(chain(20_000)) == pytest.approx(-entropy, abs=0.02)


def test_no_tree_has_more_weight():
    weight = torch.rand(12, 12, generator=torch.Generator().manual_seed(0))
    weight = weight + weight.T
    best = networkx.maximum_spanning_tree(networkx.from_numpy_array(weight.numpy()))
    ours = edges_of(spanning_tree(weight))
    assert ours == {frozenset(edge) for edge in best.edges if edge[0] != edge[1]}


def test_three_bits_whose_sum_is_even_look_independent():
    bits = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=torch.float64).repeat(500, 1)
    assert ChowLiu(None).fit(bits).score(bits) == pytest.approx(3 * math.log(0.5), abs=1e-2)  # two bits are enough


def test_a_tree_for_each_class_tells_what_a_sum_over_features_cannot():
    x = torch.rand(400, 2, generator=torch.Generator().manual_seed(0)) - 0.5
    assert ChowLiuClassifier(4).fit(x, (x[:, 0] * x[:, 1]) > 0).score(x, (x[:, 0] * x[:, 1]) > 0) > 0.95


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="at least 2 bins, got 1"):
        ChowLiu(1).fit(chain(9))
    with pytest.raises(ValueError, match="greater than 0, got 0"):
        ChowLiu(prior=0.0).fit(chain(9))
