"""Attention (Bahdanau, Cho & Bengio 2014): who writes a sequence looks back at each place of the one that was read."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional as F
from .activating import initialise
from .expecting import expect
from .gru import GRUCell


class AdditiveAttention(torch.nn.Module):
    """Shares softmax(v . tanh(W query + U memory)) of a memory, and the mean that they make of it.

    Args:
        query, memory: features of one query, and of one place of the memory.
        width: of what is compared.
    """

    def __init__(self, query: int, memory: int, width: int) -> None:
        super().__init__()
        self.asked = torch.nn.Linear(query, width, bias=False)
        self.known = torch.nn.Linear(memory, width)
        self.score = torch.nn.Linear(width, 1, bias=False)
        for linear in (self.asked, self.known, self.score):
            initialise(linear, "linear")

    def forward(self, query: Tensor, memory: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """The mean `(batch, features)` and the shares `(batch, places)`.

        Args:
            query: `(batch, features)`.
            memory: `(batch, places, features)`.
            known: `self.known(memory)`, which is the same for all queries.
        """
        scores = self.score(F.tanh(known + self.asked(query).unsqueeze(1))).squeeze(-1)
        shares = F.softmax(scores, 1)
        return (shares.unsqueeze(1) @ memory).squeeze(1), shares


class Translator(torch.nn.Module):
    """Reads a text in both directions, and writes another character by character, looking back at it.

    Args:
        characters: how many different ones there are, the same for both texts.
        width: of each direction's state, and of the writer's.
        attends: whether the writer looks back; if not, all it has is the last state of each direction
            (Sutskever et al. 2014).

    Shape: the text read `(batch, places)` and the one to be written `(batch, length)`, characters' numbers, to the
        logits of each written character, `(batch, length, characters)`, given those before it.

    Example:
        >>> import torch
        >>> from nnkernels.networks.alignment import Translator
        >>> translator, text = Translator(50, width=16), torch.randint(50, (3, 12))
        >>> translator(text, text.flip(1)).shape, translator.write(text, 5).shape
        (torch.Size([3, 12, 50]), torch.Size([3, 5]))
    """

    def __init__(self, characters: int, *, width: int = 64, attends: bool = True) -> None:
        super().__init__()
        self.characters = characters
        self.embedding = torch.nn.Embedding(characters + 1, width)  # the last stands for the beginning
        self.forwards, self.backwards = (GRUCell(width, width, "tanh", 1) for _ in range(2))
        self.begin = torch.nn.Linear(2 * width, width)
        self.attention = AdditiveAttention(width, 2 * width, width) if attends else None
        self.writer = GRUCell(3 * width, width, "tanh", 1)
        self.head = torch.nn.Linear(3 * width, characters)
        for linear in (self.begin, self.head):
            initialise(linear, "linear")

    def read(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """The memory, `(batch, places, 2 width)`, and both directions' last states, `(batch, 2 width)`."""
        expect(self, text, "batch", "places")
        x = self.embedding(text)
        ahead, back = self.forwards(x), self.backwards(x.flip(1)).flip(1)
        return torch.cat([ahead, back], 2), torch.cat([ahead[:, -1], back[:, 0]], 1)

    def _written(self, text: Tensor, written: Tensor | None, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, characters and shares; each character is given those `written`, or else its own likeliest ones."""
        memory, last = self.read(text)
        known = self.attention.known(memory) if self.attention is not None else memory
        state = F.tanh(self.begin(last))
        before = torch.full_like(text[:, 0], self.characters)
        told, said, looked = [], [], []
        for at in range(length):
            context, shares = last, memory.new_zeros(memory.shape[:2])
            if self.attention is not None:
                context, shares = self.attention(state, memory, known)
            given = self.writer.given(torch.cat([self.embedding(before), context], 1))
            (state,) = self.writer.step(given, (state,))
            told.append(self.head(torch.cat([state, context], 1)))
            said.append(told[-1].argmax(1))
            looked.append(shares)
            before = said[-1] if written is None else written[:, at]
        return torch.stack(told, 1), torch.stack(said, 1), torch.stack(looked, 1)

    def forward(self, text: Tensor, written: Tensor) -> Tensor:
        expect(self, written, text.shape[0], "length")
        return self._written(text, written, written.shape[1])[0]

    @torch.no_grad()
    def write(self, text: Tensor, length: int) -> Tensor:
        """The likeliest character at each place, given those that it wrote before, `(batch, length)`."""
        return self._written(text, None, length)[1]

    @torch.no_grad()
    def looked(self, text: Tensor, length: int) -> Tensor:
        """Where it looks while it writes, `(batch, length, places)`: rows that sum to 1, or 0 if it does not attend."""
        return self._written(text, None, length)[2]
