"""The networks, with any activation of the catalogue."""

from __future__ import annotations

import pytest
import torch

from nnkernels import activations
from nnkernels.networks import NETWORKS, build
from nnkernels.networks.activating import layer

SHAPES = {"numbers": (12,), "pictures": (2, 8, 8), "sequences": (6, 3), "characters": (16,)}


def shape(name: str) -> tuple[int, ...]:
    return SHAPES[NETWORKS[name].takes[0]]


def batch(name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if NETWORKS[name].takes[0] == "characters":
        return torch.randint(11, (5, *shape(name)), generator=generator)
    return torch.randn(5, *shape(name), generator=generator)


@pytest.mark.parametrize("activation", activations())
@pytest.mark.parametrize("name", NETWORKS)
def test_every_activation_serves_in_every_network(name, activation):
    torch.manual_seed(0)
    network = build(name, shape(name), 11, activation=activation, width=32, depth=2)
    outputs = network(batch(name))
    assert outputs.shape == ((5, 16, 11) if NETWORKS[name].takes[0] == "characters" else (5, 11))
    outputs.square().mean().backward()
    for parameter in network.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()
    assert sum(float(parameter.grad.abs().sum()) for parameter in network.parameters()) > 0


@pytest.mark.parametrize("activation", ["relu", "mish", "tanh", "selu", "gelu", "leaky_relu", "maxout", "prelu"])
def test_the_signal_keeps_its_size_through_the_layers(activation):
    torch.manual_seed(0)
    network = build("mlp", (256,), 64, activation=activation, width=256, depth=6)
    assert 0.3 < network(torch.randn(512, 256)).square().mean().sqrt() < 3


def test_a_transformer_sees_no_future_and_knows_places():
    torch.manual_seed(0)
    network = build("transformer", (16,), 11, width=32).eval()
    text = batch("transformer")
    changed = text.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 11
    ours, theirs = network(text), network(changed)
    torch.testing.assert_close(ours[:, :9], theirs[:, :9])
    assert not torch.allclose(ours[:, 9:], theirs[:, 9:])
    same = network(torch.ones(1, 16, dtype=torch.long) * 3)
    assert torch.allclose(same[0, 0], same[0, 1], atol=1e-5)  # attention to equals is the same everywhere
    swapped = text.clone()
    swapped[:, [0, 1]] = swapped[:, [1, 0]]
    assert not torch.allclose(network(text)[:, 5], network(swapped)[:, 5])


def test_gates_and_their_activation_mean_the_same_in_a_transformer():
    outputs = []
    for activation in ("swiglu", "silu"):
        torch.manual_seed(0)
        outputs.append(build("transformer", (16,), 11, width=32, activation=activation)(batch("transformer")))
    torch.testing.assert_close(*outputs)


def test_an_unknown_activation_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"mihs.*mish"):
        layer("mihs")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_a_plain_module(name):
    """Batches of any size, autocast, torch.compile as one graph, and a state that makes another the same."""
    torch.manual_seed(0)
    network, other = (build(name, shape(name), 11, width=32).eval() for _ in range(2))
    whole = network(batch(name))
    torch.testing.assert_close(torch.cat([network(one) for one in batch(name).split(2)]), whole)
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other(batch(name)), whole)
    torch.testing.assert_close(torch.compile(network, backend="eager", fullgraph=True)(batch(name)), whole)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(network(batch(name)).float(), whole, rtol=0.1, atol=0.1)


READERS = [name for name, row in NETWORKS.items() if {"sequences", "characters"} <= {*row.takes}]


@pytest.mark.parametrize("name", READERS)
def test_what_reads_sequences_reads_texts_too_and_sees_no_future(name):
    torch.manual_seed(0)
    reader = build(name, (6, 3), 11, width=16).eval()
    assert reader(torch.randn(5, 9, 3)).shape == (5, 11)  # of another length
    with pytest.raises(ValueError, match=r"\(batch, places, 3\), got \(5, 6, 4\)"):
        reader(torch.randn(5, 6, 4))
    writer = build(name, (16,), 11, width=16).eval()
    text = torch.randint(11, (5, 16))
    changed = text.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 11
    torch.testing.assert_close(writer(text)[:, :9], writer(changed)[:, :9])
    assert not torch.allclose(writer(text)[:, 9:], writer(changed)[:, 9:])


@pytest.mark.parametrize(("name", "theirs"), [("rnn", "RNN"), ("lstm", "LSTM"), ("gru", "GRU")])
def test_recurrent_cells_compute_what_torch_computes(name, theirs):
    torch.manual_seed(0)
    ours = build(name, (7, 3), 2, width=8).cells[0]
    other = getattr(torch.nn, theirs)(3, 8, batch_first=True)
    order = {"lstm": [0, 1, 3, 2]}.get(name)  # torch's candidate comes before its last gate
    for mine, its in ((ours.given.weight, other.weight_ih_l0), (ours.recurrent.weight, other.weight_hh_l0)):
        blocks = mine.detach().split(8)
        its.data = torch.cat([blocks[at] for at in order] if order else blocks)
    biases = ours.given.bias.detach().split(8)
    other.bias_ih_l0.data = torch.cat([biases[at] for at in order] if order else biases)
    other.bias_hh_l0.data.zero_()
    x = torch.randn(5, 7, 3)
    torch.testing.assert_close(ours(x), other(x)[0])


def test_a_network_says_which_shape_it_wants():
    with pytest.raises(ValueError, match=r"CNN takes the shape \(channels, height, width\), got \(12,\)"):
        build("cnn", (12,), 3)
    with pytest.raises(ValueError, match=r"LSTM takes the shape \(places, features\), got \(1, 8, 8\)"):
        build("lstm", (1, 8, 8), 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_exported_for_batches_of_any_size(name):
    torch.manual_seed(0)
    network, given = build(name, shape(name), 11, width=32).eval(), batch(name)
    exported = torch.export.export(network, (given,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(exported.module()(given[:3]), network(given[:3]))
