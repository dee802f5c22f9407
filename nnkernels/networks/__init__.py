"""Small networks made of the family's activations, by name. Each is a class of its own file.

Example:
    >>> from nnkernels.networks import build
    >>> cnn = build("cnn", (1, 8, 8), 10, activation="mish", width=16)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .cnn import CNN
from .gru import GRU
from .hybrid import CNNGRU
from .lstm import LSTM
from .mlp import MLP
from .modular import Modular
from .pooling import AttentionPooling
from .rnn import RNN
from .spiking import Spiking
from .transformer import Transformer
from .vit import ViT

__all__ = [
    "CNN",
    "CNNGRU",
    "GRU",
    "LSTM",
    "MLP",
    "NETWORKS",
    "RNN",
    "AttentionPooling",
    "Modular",
    "Network",
    "Spiking",
    "Transformer",
    "ViT",
    "build",
]


@dataclass(frozen=True)
class Network:
    """What a network's name stands for.

    Attributes:
        make: `make(shape, outputs, *, activation, width, depth, dropout)`, each option with a default.
        takes: "numbers" of any shape, "pictures" (channels, height, width), "sequences" (places, features) and
            "characters" (their numbers): one of them or more.
    """

    make: Callable[..., torch.nn.Module]
    takes: tuple[str, ...]


NETWORKS: dict[str, Network] = {
    "mlp": Network(MLP, ("numbers",)),
    "cnn": Network(CNN, ("pictures",)),
    "rnn": Network(RNN, ("sequences", "characters")),
    "lstm": Network(LSTM, ("sequences", "characters")),
    "gru": Network(GRU, ("sequences", "characters")),
    "transformer": Network(Transformer, ("characters",)),
    "spiking": Network(Spiking, ("numbers",)),
    "modular": Network(Modular, ("numbers",)),
    "vit": Network(ViT, ("pictures",)),
    "attention_pooling": Network(AttentionPooling, ("sequences",)),
    "cnn_gru": Network(CNNGRU, ("sequences",)),
}


def build(name: str, shape: tuple[int, ...], outputs: int, **options: Any) -> torch.nn.Module:
    """The network called `name`, with its weights drawn from torch's generator.

    Args:
        name: a key of `NETWORKS`.
        shape: of one input.
        outputs: numbers for each input, or characters of the alphabet.
        **options: `activation`, `width`, `depth` and `dropout`; what is None is left to the network.

    Raises:
        ValueError: the network or the activation is not known, or the shape does not suit the network.
    """
    return NETWORKS[name].make(shape, outputs, **{key: value for key, value in options.items() if value is not None})
