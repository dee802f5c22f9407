"""What networks of attention share: blocks in which each place of a sequence asks all others (Vaswani et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .. import functional as F
from .. import nn
from ..registry import Activation
from ..registry import activation as row_called
from .activating import constants, features_in, initialise, layer

HEAD = 32
"""Features of one head."""

Turn = tuple[Tensor, Tensor] | None
"""Cosine and sine of the angles by which each place turns, `(places, HEAD / 2)`; None where places are all alike."""


def rotated(x: Tensor, turn: Turn) -> Tensor:
    """Rotary positions (Su et al. 2021): each pair of features turns with its place. x is (..., places, features)."""
    if turn is None:
        return x
    cosine, sine = turn
    left, right = x.chunk(2, -1)
    return torch.cat([left * cosine - right * sine, left * sine + right * cosine], -1)


class Attention(torch.nn.Module):
    """Attention of a sequence to itself; `(batch, places, width)` to the same.

    Args:
        causal: whether a place sees only itself and those before it.
        scale: what the weights of what it gives are multiplied by at the beginning.
    """

    def __init__(self, width: int, heads: int, dropout: float, scale: float, causal: bool) -> None:
        super().__init__()
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.taken = torch.nn.Linear(width, 3 * width, bias=False)
        self.given = torch.nn.Linear(width, width, bias=False)
        initialise(self.taken, "linear")
        initialise(self.given, "linear", scale)

    def asked(self, x: Tensor, turn: Turn) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each `(batch, heads, places, HEAD)`."""
        batch, places, width = x.shape
        split = self.taken(x).view(batch, places, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        return rotated(query, turn), rotated(key, turn), value

    def shares(self, x: Tensor, turn: Turn) -> Tensor:
        """How much each place hears of each other, `(batch, heads, places, places)`: rows that sum to 1, to be seen."""
        query, key, _ = self.asked(x, turn)
        scores = query @ key.mT / math.sqrt(query.shape[-1])
        if self.causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
        return F.softmax(scores, -1)

    def forward(self, x: Tensor, turn: Turn) -> Tensor:
        share = self.dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(*self.asked(x, turn), dropout_p=share, is_causal=self.causal)
        return self.given(mixed.transpose(1, 2).reshape(x.shape))


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

    def __init__(self, width: int, heads: int, activation: str, dropout: float, scale: float, causal: bool) -> None:
        super().__init__()
        self.first, self.second = torch.nn.RMSNorm(width), torch.nn.RMSNorm(width)
        self.attention = Attention(width, heads, dropout, scale, causal)
        self.feed_forward = FeedForward(width, activation, scale)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, x: Tensor, turn: Turn) -> Tensor:
        x = x + self.dropout(self.attention(self.first(x), turn))
        return x + self.dropout(self.feed_forward(self.second(x)))


class Attending(torch.nn.Module):
    """Blocks one after the other and a norm behind them; a subclass says what goes in, and what is read.

    Args:
        places: of the longest sequence.
        activation: any name of the catalogue. A stateless one, such as "silu", becomes the gate of the feed-forward
            block, so that "silu" and "swiglu" mean the same.
        width: features, a multiple of 32.
        depth: blocks.
        dropout: the probability, of attention and behind each half of a block.
        causal: whether a place sees only itself and those before it.
        turning: whether places turn by their number; without it, and not causal, their order is lost.

    Raises:
        ValueError: the width is no multiple of 32.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(
        self,
        places: int,
        activation: str,
        width: int,
        depth: int,
        dropout: float,
        *,
        causal: bool = False,
        turning: bool = True,
    ) -> None:
        super().__init__()
        if width % HEAD:
            raise ValueError(f"the width of a transformer has to be a multiple of {HEAD}, got {width}")
        self.turning = turning
        scale = 1 / math.sqrt(2 * depth)  # 2 depth branches add up
        self.blocks = torch.nn.ModuleList(
            Block(width, width // HEAD, activation, dropout, scale, causal) for _ in range(depth)
        )
        self.norm = torch.nn.RMSNorm(width)
        angle = torch.arange(places).unsqueeze(1) * 10_000 ** -torch.arange(0, 1, 2 / HEAD)
        self.register_buffer("cosine", angle.cos(), persistent=False)
        self.register_buffer("sine", angle.sin(), persistent=False)

    def turn(self, x: Tensor) -> Turn:
        """Of the places of `x`, `(batch, places, width)`."""
        places, longest = x.shape[1], len(self.cosine)
        if not self.turning:
            return None
        if places > longest:
            raise ValueError(f"{type(self).__name__} takes at most {longest} places, got {places}")
        return self.cosine[:places], self.sine[:places]

    def attended(self, x: Tensor) -> Tensor:
        """All blocks; `(batch, places, width)` to the same."""
        turn = self.turn(x)
        for block in self.blocks:
            x = block(x, turn)
        return self.norm(x)

    @torch.no_grad()
    def shares(self, x: Tensor) -> Tensor:
        """Who hears whom in the last block, `(batch, heads, places, places)`, of `x`, `(batch, places, width)`."""
        turn, blocks = self.turn(x), list(self.blocks)
        for block in blocks[:-1]:
            x = block(x, turn)
        last: Any = blocks[-1]
        return last.attention.shares(last.first(x), turn)
