"""A mixture of experts (Jacobs, Jordan, Nowlan & Hinton 1991): a gate decides which network answers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import functional as F
from .activating import initialise
from .expecting import expect
from .mlp import MLP


class Modular(torch.nn.Module):
    """Several MLPs, and a gate that weighs their answers.

    Args:
        shape: of one input, which is flattened.
        outputs: numbers for each input.
        activation: any name of the catalogue.
        width: units of each expert's hidden layers.
        depth: hidden layers of each expert.
        dropout: the probability, behind each activation.
        experts: how many there are.
        context: the last numbers of an input that alone the gate sees, and the experts do not; by default all see all.

    Shape: `(batch, *shape)` to `(batch, outputs)`.

    Example:
        >>> import torch
        >>> from nnkernels.networks.modular import Modular
        >>> network = Modular((8,), 3, experts=4)
        >>> network(torch.zeros(5, 8)).shape, network.gates(torch.zeros(5, 8)).shape
        (torch.Size([5, 3]), torch.Size([5, 4]))
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        outputs: int,
        *,
        activation: str = "relu",
        width: int = 64,
        depth: int = 1,
        dropout: float = 0.0,
        experts: int = 4,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.shape, self.context = tuple(shape), context
        features = math.prod(shape)
        if not 0 <= context < features:
            raise ValueError(
                f"the context is at least 0 and less than the {features} numbers of an input, got {context}"
            )
        self.experts = torch.nn.ModuleList(
            MLP((features - context,), outputs, activation=activation, width=width, depth=depth, dropout=dropout)
            for _ in range(experts)
        )
        self.gate = torch.nn.Linear(context or features, experts, bias=context == 0)
        initialise(self.gate, "linear", 0.0 if context else 1.0)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gate's scores `(batch, experts)` and the experts' answers `(batch, experts, outputs)`.

        Raises:
            ValueError: the input has another shape.
        """
        expect(self, x, "batch", *self.shape)
        seen = x.flatten(1)
        told, mark = seen.split([seen.shape[1] - self.context, self.context], 1) if self.context else (seen, seen)
        return self.gate(mark), torch.stack([expert(told) for expert in self.experts], 1)

    def gates(self, x: Tensor) -> Tensor:
        """The weight of each expert, `(batch, experts)`."""
        return F.softmax(self.parts(x)[0], 1)

    def forward(self, x: Tensor) -> Tensor:
        scores, answers = self.parts(x)
        return (F.softmax(scores, 1).unsqueeze(1) @ answers).squeeze(1)

    def competition(self, x: Tensor, classes: Tensor) -> Tensor:
        """The paper's loss, the mean of -log sum gate_i p_i(class): who answers best learns most, and is asked more.

        Args:
            x: `(batch, *shape)`.
            classes: their numbers, `(batch,)`.
        """
        scores, answers = self.parts(x)
        right = classes[:, None, None].expand(-1, answers.shape[1], 1)
        likely = F.log_softmax(answers, 2).gather(2, right).squeeze(2)
        return -torch.logsumexp(F.log_softmax(scores, 1) + likely, 1).mean()
