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
