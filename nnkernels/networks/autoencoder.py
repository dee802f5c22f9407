"""The autoencoder (Hinton & Salakhutdinov 2006): what passes through few numbers has to keep what matters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import functional as F
from .expecting import expect
from .mlp import MLP


class Autoencoder(torch.nn.Module):
    """An encoder to a code of few numbers, linear as in the paper, and a decoder of the same form back.

    The paper trains each layer as an RBM first; with today's initial weights and Adam that is not needed.

    Args:
        shape: of one input, whose numbers lie between 0 and 1.
        code: numbers of the code.
        activation: any name of the catalogue.
        width: units of each hidden layer.
        depth: hidden layers of the encoder, and of the decoder.

    Shape: `(batch, *shape)` to the same.

    Raises:
        ValueError: the input, or the code, has another shape.

    Example:
        >>> import torch
        >>> from nnkernels.networks.autoencoder import Autoencoder
        >>> network = Autoencoder((1, 8, 8), code=2)
        >>> network.encode(torch.rand(3, 1, 8, 8)).shape, network(torch.rand(3, 1, 8, 8)).shape
        (torch.Size([3, 2]), torch.Size([3, 1, 8, 8]))
    """

    def __init__(
        self, shape: tuple[int, ...], code: int = 2, *, activation: str = "mish", width: int = 128, depth: int = 2
    ) -> None:
        super().__init__()
        self.shape, self.code = tuple(shape), code
        self.encoder = MLP(shape, code, activation=activation, width=width, depth=depth)
        self.decoder = MLP((code,), math.prod(shape), activation=activation, width=width, depth=depth)

    def encode(self, x: Tensor) -> Tensor:
        """`(batch, *shape)` to `(batch, code)`."""
        expect(self, x, "batch", *self.shape)
        return self.encoder(x)

    def logits(self, code: Tensor) -> Tensor:
        """What `decode` is before the sigmoid, for a loss that is exact where the sigmoid is 0 or 1."""
        expect("the decoder", code, "batch", self.code)
        return self.decoder(code).view(-1, *self.shape)

    def decode(self, code: Tensor) -> Tensor:
        """`(batch, code)` to `(batch, *shape)`, between 0 and 1."""
        return F.sigmoid(self.logits(code))

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def loss(self, x: Tensor) -> Tensor:
        """The cross-entropy of each number of the input and what comes back, their mean: that of the paper."""
        return torch.nn.functional.binary_cross_entropy_with_logits(self.logits(self.encode(x)), x)
