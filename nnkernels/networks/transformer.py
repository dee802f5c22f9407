"""The transformer (Vaswani et al. 2017) on characters, built as Llama is (Touvron et al. 2023)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .activating import initialise
from .attending import Attending
from .expecting import expect


class Transformer(Attending):
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
        ValueError: the width is no multiple of 32, or a text is longer than the context.

    Example:
        >>> import torch
        >>> from nnkernels.networks.transformer import Transformer
        >>> Transformer((16,), 50, activation="swiglu", width=64)(torch.zeros(3, 16, dtype=torch.long)).shape
        torch.Size([3, 16, 50])
    """

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
        expect(self, shape, "context")
        (self.context,) = shape
        super().__init__(self.context, activation, width, depth, dropout, causal=True)
        self.embedding = torch.nn.Embedding(outputs, width)
        self.head = torch.nn.Linear(width, outputs, bias=False)
        initialise(self.head, "linear", 1 / math.sqrt(width))

    def forward(self, characters: Tensor) -> Tensor:
        expect(self, characters, "batch", "places")
        return self.head(self.attended(self.embedding(characters)))


class Reader(Attending):
    """Tells of what class a whole text is: each place sees all others, and their mean is read.

    Args:
        context: the longest text.
        characters: how many different ones there are.
        outputs: classes.
        activation, width, depth, dropout: as a `Transformer`'s.
        turning: whether places are told apart; if not, it reads a bag of characters.

    Shape: `(batch, places)`, the characters' numbers, to `(batch, outputs)`, the logits.

    Raises:
        ValueError: see `Transformer`.

    Example:
        >>> import torch
        >>> from nnkernels.networks.transformer import Reader
        >>> reader, text = Reader(16, 50, 2, width=32, turning=False), torch.randint(50, (3, 16))
        >>> torch.allclose(reader(text), reader(text.flip(1)), atol=1e-5)
        True
    """

    def __init__(
        self,
        context: int,
        characters: int,
        outputs: int,
        *,
        activation: str = "swiglu",
        width: int = 64,
        depth: int = 2,
        dropout: float = 0.0,
        turning: bool = True,
    ) -> None:
        super().__init__(context, activation, width, depth, dropout, turning=turning)
        self.embedding = torch.nn.Embedding(characters, width)
        self.head = torch.nn.Linear(width, outputs)
        initialise(self.head, "linear")

    def forward(self, characters: Tensor) -> Tensor:
        expect(self, characters, "batch", "places")
        return self.head(self.attended(self.embedding(characters)).mean(1))
