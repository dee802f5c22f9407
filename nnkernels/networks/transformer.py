"""A transformer (Vaswani et al. 2017) over characters, built as Llama is (Touvron et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .. import nn
from ..registry import Activation
from ..registry import activation as row_called
from .activating import constants, features_in, initialise, layer

_HEAD = 32
"""Features of one head."""


def rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021): each pair of features turns with its place. x is (..., places, features)."""
    left, right = x.chunk(2, -1)
    return torch.cat([left * cosine - right * sine, left * sine + right * cosine], -1)


class Attention(torch.nn.Module):
    """Causal attention of a sequence to itself; `(batch, places, width)` to the same."""

    def __init__(self, width: int, heads: int, dropout: float, scale: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.taken = torch.nn.Linear(width, 3 * width, bias=False)
        self.given = torch.nn.Linear(width, width, bias=False)
        initialise(self.taken, "linear")
        initialise(self.given, "linear", scale)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        batch, places, width = x.shape
        split = self.taken(x).view(batch, places, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        query, key = rotated(query, cosine, sine), rotated(key, cosine, sine)
        share = self.dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(query, key, value, dropout_p=share, is_causal=True)
        return self.given(mixed.transpose(1, 2).reshape(batch, places, width))


class FeedForward(torch.nn.Module):
    """The block's MLP: a stateless activation gates (Shazeer 2020), the others stand alone."""

    def __init__(self, width: int, activation: str, scale: float) -> None:
        super().__init__()
        gates = isinstance(row_called(activation), Activation)
        hidden = math.ceil(width * 8 / 3 / 8) * 8
        self.up = torch.nn.Linear(width, hidden * (2 if gates else features_in(activation)), bias=False)
        options: dict[str, Any] = dict(constants(activation))
        self.activation = nn.Gated(activation, **options) if gates else layer(activation, dim=-1)
        self.down = torch.nn.Linear(hidden, width, bias=False)
        initialise(self.up, "linear")
        initialise(self.down, activation, scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))

    def feed_forwards(self) -> Iterator[tuple[torch.nn.Module, ...]]:
        """Its two matrices and what is between, for tensor parallelism."""
        yield self.up, self.activation, self.down


class Block(torch.nn.Module):
    """Attention and feed-forward, each added to what it was told."""

    def __init__(self, width: int, heads: int, activation: str, dropout: float, scale: float) -> None:
        super().__init__()
        self.first, self.second = torch.nn.RMSNorm(width), torch.nn.RMSNorm(width)
        self.attention = Attention(width, heads, dropout, scale)
        self.feed_forward = FeedForward(width, activation, scale)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.first(x), cosine, sine))
        return x + self.dropout(self.feed_forward(self.second(x)))


class Transformer(torch.nn.Module):
    """Predicts at each place of a text the character that follows.

    Args:
        shape: (context,), the longest text that it is trained on.
        outputs: different characters.
        activation: any name of the catalogue. A stateless one, such as "silu", becomes the gate of the feed-forward
            block, so that "silu" and "swiglu" mean the same.
        width: features, a multiple of 32.
        depth: blocks.
        dropout: the probability, of attention and behind each half of a block.

    Shape: `(batch, places)`, the characters' numbers, to `(batch, places, outputs)`, the logits.

    Raises:
        ValueError: the width is no multiple of 32.

    Example:
        >>> import torch
        >>> from nnkernels.networks.transformer import Transformer
        >>> Transformer((16,), 50, activation="swiglu", width=64)(torch.zeros(3, 16, dtype=torch.long)).shape
        torch.Size([3, 16, 50])
    """

    cosine: Tensor
    sine: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        outputs: int,
        *,
        activation: str = "swiglu",
        width: int = 128,
        depth: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % _HEAD:
            raise ValueError(f"the width of a transformer has to be a multiple of {_HEAD}, got {width}")
        (self.context,) = shape
        scale = 1 / math.sqrt(2 * depth)  # 2 depth branches add up
        self.embedding = torch.nn.Embedding(outputs, width)
        self.blocks = torch.nn.ModuleList(
            Block(width, width // _HEAD, activation, dropout, scale) for _ in range(depth)
        )
        self.norm = torch.nn.RMSNorm(width)
        self.head = torch.nn.Linear(width, outputs, bias=False)
        initialise(self.head, "linear", 1 / math.sqrt(width))
        angle = torch.arange(self.context).unsqueeze(1) * 10_000 ** -torch.arange(0, 1, 2 / _HEAD)
        self.register_buffer("cosine", angle.cos(), persistent=False)
        self.register_buffer("sine", angle.sin(), persistent=False)

    def forward(self, characters: Tensor) -> Tensor:
        places = characters.shape[1]
        cosine, sine = self.cosine[:places], self.sine[:places]
        x = self.embedding(characters)
        for block in self.blocks:
            x = block(x, cosine, sine)
        return self.head(self.norm(x))
